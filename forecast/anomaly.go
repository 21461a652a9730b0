package forecast

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Kind is what is out of the ordinary.
type Kind string

// The kinds of anomaly.
const (
	Spike      Kind = "spike"       // far above what was forecast
	Dip        Kind = "dip"         // far below it
	LevelShift Kind = "level_shift" // the sixth in a row that is: the new level is learned
	Flatline   Kind = "flatline"    // the same value for longer than ever before
	Missing    Kind = "missing"     // no value
)

// Kinds are all kinds.
func Kinds() []Kind { return []Kind{Spike, Dip, LevelShift, Flatline, Missing} }

// DetectorOptions say what a Detector takes for an anomaly.
type DetectorOptions struct {
	// Step is the time from one value to the next. Required.
	Step time.Duration
	// Sensitivity is how many standard deviations a value is off its forecast to be a spike or a dip. 0 is 5: demand has
	// heavy tails, and 2 would be one value in twenty even of a normal distribution.
	Sensitivity float64
	// Realert is how long after an alert there is no other: one incident is one alert. 0 is two hours, or a day if Seasonal.
	Realert time.Duration
	// Seasonal tells that the forecast has a daily pattern; see Realert.
	Seasonal bool
	// FlatFor is how long a value has to be the same, at least, to be a flatline. 0 is an hour, or 12 steps if that is longer.
	FlatFor time.Duration
	// MissingFor is how long values have to be missing. 0 is three steps.
	MissingFor time.Duration
}

func (o DetectorOptions) withDefaults() (DetectorOptions, error) {
	if o.Step <= 0 {
		return o, fmt.Errorf("step %s: it is above 0", o.Step)
	}
	var errs []error
	for _, d := range []struct {
		name  string
		value *time.Duration
		usual time.Duration
	}{
		{"realert", &o.Realert, map[bool]time.Duration{false: 2 * time.Hour, true: 24 * time.Hour}[o.Seasonal]},
		{"flat for", &o.FlatFor, max(time.Hour, 12*o.Step)},
		{"missing for", &o.MissingFor, 3 * o.Step},
	} {
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("%s %s: it is not below 0", d.name, *d.value))
		}
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	if o.Sensitivity < 0 || math.IsNaN(o.Sensitivity) {
		errs = append(errs, fmt.Errorf("sensitivity %v: it is not below 0", o.Sensitivity))
	}
	if o.Sensitivity == 0 {
		o.Sensitivity = 5
	}
	return o, errors.Join(errs...)
}

// Finding is what a Detector says of one value.
type Finding struct {
	// Score is how many standard deviations the value is off its forecast, at most 1,000; 0 where it is missing, or where
	// it is not known yet how much is usual.
	Score float64
	// Kind is empty if nothing is out of the ordinary.
	Kind Kind
	// Alert is true once an incident: at an anomaly that comes at least Realert after the last alert.
	Alert bool
	// Residual is what a model is to learn from: the one given, cut off at clipAt standard deviations, so that a burst does
	// not move the level.
	Residual float64
	// Adopt tells the model to learn the level faster, for the steps after a level shift.
	Adopt bool
}

const (
	// clipAt is how many standard deviations of a residual a model learns from (Gelper, Fried and Croux, "Robust
	// forecasting with exponential and Holt-Winters smoothing", Journal of Forecasting 29, 2010, who have 2; demand has
	// heavier tails).
	clipAt = 4
	// mostScore keeps scores finite where almost nothing is usual.
	mostScore = 1000
)

// Detector finds anomalies in one series, online, by what a model makes of it: it is told each value, how far it is off
// its forecast and how far it usually is. It does not allocate. It is not safe for concurrent use.
type Detector struct {
	o DetectorOptions

	run      int // residuals in a row beyond clipAt, below 0 if they are below
	adopting int // steps that are left
	gap      time.Duration

	last       float64
	flat       time.Duration // how long the value has been last
	longest    time.Duration // before, not counting what was found to be a flatline
	begun      bool          // last is known
	varied     bool          // it has changed
	lastAlert  time.Time
	hasAlerted bool
}

// NewDetector fails with everything that is wrong with the options.
func NewDetector(o DetectorOptions) (*Detector, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Detector{o: o}, nil
}

// Observe takes the value y of time t, NaN if it is missing, what it is above its forecast, and the standard deviation of
// that, see Spread; 0 if that is not known yet.
func (d *Detector) Observe(t time.Time, y, residual, deviation float64) Finding {
	var f Finding
	if math.IsNaN(y) {
		d.missing(&f)
	} else {
		d.gap = 0
		d.far(&f, residual, deviation)
		if d.flatline(y) {
			f.Kind = Flatline
		}
	}
	if f.Kind != "" && (!d.hasAlerted || t.Sub(d.lastAlert) >= d.o.Realert) {
		f.Alert, d.hasAlerted, d.lastAlert = true, true, t
	}
	return f
}

func (d *Detector) missing(f *Finding) {
	d.run = 0
	d.flat = 0
	d.begun = false
	if d.gap += d.o.Step; d.gap >= d.o.MissingFor {
		f.Kind = Missing
	}
}

// flatline tells if y has been the same for long, and twice as long as ever before: what is often 0 at night is not. What
// never changed is not either.
func (d *Detector) flatline(y float64) bool {
	if !d.begun {
		d.begun, d.last = true, y
		return false
	}
	if y != d.last {
		if !d.varied || d.flat < d.limit() {
			d.longest = max(d.longest, d.flat)
		}
		d.varied, d.last, d.flat = true, y, 0
		return false
	}
	d.flat += d.o.Step
	return d.varied && d.flat >= d.limit()
}

func (d *Detector) limit() time.Duration { return max(d.o.FlatFor, 2*d.longest) }

// far judges the residual.
func (d *Detector) far(f *Finding, residual, deviation float64) {
	if math.IsNaN(residual) {
		residual = 0
	}
	f.Residual = residual
	if !(deviation > 0) {
		d.run = 0
		return
	}
	z := residual / deviation
	f.Score = min(math.Abs(z), mostScore)
	if d.adopting > 0 { // the level is being learned: residuals are what it is learned from
		d.adopting--
		f.Adopt = true
		return
	}
	side := 0
	switch {
	case z > clipAt:
		side = 1
	case z < -clipAt:
		side = -1
	}
	if side*d.run < 0 || side == 0 {
		d.run = 0
	}
	d.run += side
	if d.run >= shiftSteps || d.run <= -shiftSteps {
		f.Kind, f.Adopt = LevelShift, true
		d.run, d.adopting = 0, shiftSteps
		return
	}
	if side != 0 {
		f.Residual = float64(side) * clipAt * deviation
	}
	switch {
	case z >= d.o.Sensitivity:
		f.Kind = Spike
	case z <= -d.o.Sensitivity:
		f.Kind = Dip
	}
}

// Spread tracks how far residuals usually are off: by the median of how far they are, which bursts do not widen, and by
// their mean, which is wider where tails are heavy. The larger counts: by the median alone one in twelve values of a
// bursty series would be an anomaly. The zero value is ready.
type Spread struct {
	first  [spreadAfter]float64
	n      int
	median float64
	mean   float64
}

const (
	// spreadAfter is how many residuals it takes until the deviation is known.
	spreadAfter = 30
	// medianGain is how far the median moves at a residual, relative to itself: it doubles in about 70 that are all beyond.
	medianGain = 0.01
	// meanGain is what a residual counts in the mean: half of it is of the last 139.
	meanGain = 0.005
	// mostMedians is how many medians a residual counts for in the mean at most.
	mostMedians = 20
	// The standard deviation of a normal distribution over its median and over its mean absolute deviation.
	medianToDeviation = 1.4826
	meanToDeviation   = 1.2533
)

// Observe takes a residual; NaN is left out.
func (s *Spread) Observe(residual float64) {
	r := math.Abs(residual)
	if math.IsNaN(r) || math.IsInf(r, 0) {
		return
	}
	if s.n < spreadAfter {
		s.first[s.n] = r
		if s.n++; s.n == spreadAfter {
			s.begin()
		}
		return
	}
	s.mean += meanGain * (min(r, mostMedians*s.median) - s.mean)
	switch {
	case r > s.median:
		s.median += medianGain * max(s.median, min(r, 1)*medianGain)
	case r < s.median:
		s.median -= medianGain * s.median
	}
}

func (s *Spread) begin() {
	first := s.first
	slices.Sort(first[:])
	s.median = (first[spreadAfter/2-1] + first[spreadAfter/2]) / 2
	for _, r := range first {
		s.mean += min(r, mostMedians*s.median) / spreadAfter
	}
}

// Deviation is the standard deviation of residuals around a forecast of level, at least a thousandth of it: what never
// changed may change by that. It is 0 until 30 residuals are known.
func (s *Spread) Deviation(level float64) float64 {
	if s.n < spreadAfter {
		return 0
	}
	return max(medianToDeviation*s.median, meanToDeviation*s.mean, 1e-3*math.Abs(level), 1e-9)
}
