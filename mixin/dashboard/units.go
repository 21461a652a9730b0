package dashboard

import "strings"

// knownUnits are the identifiers of Grafana's units, by their group in its menu.
const knownUnits = " " +
	"none string short percent percentunit humidity dB hex0x hex sci locale pixel bool bool_yes_no bool_on_off candela " +
	"accMS2 accFS2 accG degree radian grad arcmin arcsec areaM2 areaF2 areaMI2 acres hectares " +
	"flops mflops gflops tflops pflops eflops zflops yflops " +
	"ppm conppb conngm3 conμgm3 conmgm3 congm3 conmgdL conmmolL " +
	"currencyUSD currencyEUR currencyGBP currencyJPY currencyCHF currencyCNY currencyINR currencyKRW currencyRUB currencyUAH " +
	"currencyBRL currencyDKK currencyISK currencyNOK currencySEK currencyCZK currencyPLN currencyBTC currencyZAR currencyVND " +
	"bytes decbytes bits decbits kbytes deckbytes mbytes decmbytes gbytes decgbytes tbytes dectbytes pbytes decpbytes " +
	"pps binBps Bps binbps bps KiBs Kibits KBs Kbits MiBs Mibits MBs Mbits GiBs Gibits GBs Gbits TiBs Tibits TBs Tbits PiBs " +
	"Pibits PBs Pbits " +
	"dateTimeAsIso dateTimeAsIsoNoDateIfToday dateTimeAsUS dateTimeAsUSNoDateIfToday dateTimeAsLocal " +
	"dateTimeAsLocalNoDateIfToday dateTimeAsSystem dateTimeFromNow " +
	"watt mwatt kwatt megwatt gwatt Wm2 voltamp kvoltamp voltampreact kvoltampreact watth watthperkg kwatth kwattm amph kamph " +
	"mamph joule ev amp kamp mamp volt kvolt mvolt dBm ohm kohm Mohm farad henry mhenry lumens " +
	"flowgpm flowcms flowcfs flowcfm litreh flowlpm flowmlpm lux forceNm forcekNm forceN forcekN " +
	"Hs KHs MHs GHs THs PHs EHs massmg massg masslb masskg masst lengthmm lengthin lengthft lengthm lengthkm lengthmi " +
	"pressurembar pressurebar pressurekbar pressurepa pressurehpa pressurekpa pressurehg pressurepsi " +
	"radbq radci radgy radrad radsv radmsv radusv radrem radexpckg radr radsvh radmsvh radusvh " +
	"rotrpm rothz rotrads rotdegs celsius fahrenheit kelvin " +
	"hertz ns µs ms s m h d dtdurationms dtdurations dthms dtdhms timeticks clockms clocks " +
	"cps ops reqps rps wps iops eps mps cpm opm rpm reqpm wpm epm recpm recps rdps " +
	"velocityms velocitykmh velocitymph velocityknot mlitre litre m3 Nm3 dm3 gallons "

// knownUnit reports whether Grafana has a unit, or makes one of the name: suffix:/min, currency:EUR.
func knownUnit(unit string) bool {
	for _, made := range []string{"suffix:", "prefix:", "time:", "si:", "count:", "currency:"} {
		if strings.HasPrefix(unit, made) {
			return true
		}
	}
	return unit != "" && !strings.Contains(unit, " ") && strings.Contains(knownUnits, " "+unit+" ")
}
