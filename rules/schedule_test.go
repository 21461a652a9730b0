package rules

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// zones are time zones whose clocks are set, by an hour or by half of one, at night or at midnight, north and south, and two
// whose are not.
var zones = []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Pacific/Chatham", "Asia/Kolkata", "UTC"}

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// schedule reads one from a line of YAML.
func schedule(t testing.TB, text string) *Schedule {
	t.Helper()
	return &parseScale(t, rule("max: 8", "max: 8\n    schedule: [{min: 3, "+text+"}]")).Schedule[0]
}

// TestScheduleClock: a schedule goes by the clock on the wall. What a clock that is set forward jumps over begins, and ends,
// when it has.
func TestScheduleClock(t *testing.T) {
	const night = "cron: '0 2 * * *', until: '0 6 * * *', tz: Europe/Berlin" // on 28 March 2027 there is no 02:00
	for _, tt := range []struct {
		name, schedule, at string
		want               bool
	}{
		{"by day", "cron: '0 7 * * 1-5', until: '0 20 * * 1-5', tz: Europe/Berlin", "2026-11-25 12:00 Europe/Berlin", true},
		{"at its begin", "cron: '0 7 * * 1-5', until: '0 20 * * 1-5', tz: Europe/Berlin", "2026-11-25 07:00 Europe/Berlin", true},
		{"before it", "cron: '0 7 * * 1-5', until: '0 20 * * 1-5', tz: Europe/Berlin", "2026-11-25 06:59 Europe/Berlin", false},
		{"at its end", "cron: '0 7 * * 1-5', until: '0 20 * * 1-5', tz: Europe/Berlin", "2026-11-25 20:00 Europe/Berlin", false},
		{"on a weekend", "cron: '0 7 * * 1-5', until: '0 20 * * 1-5', tz: Europe/Berlin", "2026-11-28 12:00 Europe/Berlin", false},
		{"it ends and begins again at once", "cron: '0 0 * * *', until: '0 0 * * *'", "2026-11-25 12:00 UTC", true},
		{"the day before its begin is jumped over", night, "2027-03-27 12:00 Europe/Berlin", false},
		{"its begin is jumped over", night, "2027-03-28 03:00 Europe/Berlin", true},
		{"just before the jump", night, "2027-03-28 01:59 Europe/Berlin", false},
		{"after its end on that day", night, "2027-03-28 06:00 Europe/Berlin", false},
		{"its end is jumped over", "cron: '0 0 * * *', until: '30 2 * * *', tz: Europe/Berlin", "2027-03-28 03:00 Europe/Berlin", false},
		{"its begin and its end are jumped over", "cron: '5 2 * * *', until: '55 2 * * *', tz: Europe/Berlin", "2027-03-28 03:00 Europe/Berlin", false},
		{"its end and its begin are jumped over", "cron: '55 2 * * *', until: '5 2 * * *', tz: Europe/Berlin", "2027-03-28 03:00 Europe/Berlin", true},
		{"for so long, its begin is jumped over", "cron: '30 2 * * *', for: 4h, tz: Europe/Berlin", "2027-03-28 06:59 Europe/Berlin", true},
		{"and its end after as long", "cron: '30 2 * * *', for: 4h, tz: Europe/Berlin", "2027-03-28 07:00 Europe/Berlin", false},
		{"for so long over an hour that comes twice", "cron: '0 22 * * *', for: 8h, tz: Europe/Berlin", "2026-10-25 04:59 Europe/Berlin", true},
		{"and as long by any clock", "cron: '0 22 * * *', for: 8h, tz: Europe/Berlin", "2026-10-25 05:00 Europe/Berlin", false},
		{"a day without midnight", "cron: '0 8 * * 0', for: 12h, tz: America/Santiago", "2026-09-06 12:00 America/Santiago", true},
		{"it begins more often than it ends", "cron: '0 7 * * 1-5', until: '0 20 * * 5'", "2026-11-25 12:00 UTC", true},
		{"and has ended", "cron: '0 7 * * 1-5', until: '0 20 * * 5'", "2026-11-28 12:00 UTC", false},
		{"it ends more often than it begins", "cron: '0 7 * * *', until: '0 18,20 * * *'", "2026-11-25 19:00 UTC", false},
		{"an end that never comes", "cron: '0 7 1 11 *', until: '0 0 31 2 *'", "2026-11-25 12:00 UTC", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := strings.LastIndex(tt.at, " ")
			at, err := time.ParseInLocation("2006-01-02 15:04", tt.at[:i], zone(t, tt.at[i+1:]))
			if err != nil {
				t.Fatal(err)
			}
			if got := schedule(t, tt.schedule).active(at.UTC()); got != tt.want {
				t.Errorf("at %s: got %t", at, got)
			}
		})
	}
}

// cron is a random one, of which something happens at least once a week.
func (r draft) cron() string {
	field := func(below int, more ...string) string {
		from := r.IntN(below)
		return pick(r, append(more, strconv.Itoa(from), fmt.Sprintf("%d-%d", from, from+r.IntN(below-from)), fmt.Sprintf("%d,%d", from, r.IntN(below)))...)
	}
	return fmt.Sprintf("%s %s * * %s", field(60, "0", "30", "*/7"), field(24, "*", "*/5", "0", "1", "2", "2-3"), field(7, "*", "*", "*", "1-5"))
}

// minutes are those of a cron, by its words: the minutes of the hour, the hours and the days of the week.
type minutes [3][60]bool

func minutesOf(t testing.TB, cron string) (m minutes) {
	fields := strings.Fields(cron)
	for i, field := range []string{fields[0], fields[1], fields[4]} {
		for part := range strings.SplitSeq(field, ",") {
			from, to, every := 0, 59, 1
			if _, err := fmt.Sscanf(part, "*/%d", &every); err != nil && part != "*" {
				if n, _ := fmt.Sscanf(part, "%d-%d", &from, &to); n == 1 {
					to = from
				} else if n == 0 {
					t.Fatalf("%q in %s", part, cron)
				}
			}
			for v := from; v <= to; v += every {
				m[i][v] = true
			}
		}
	}
	return m
}

// latest is the last minute of the wall's clock that is in the cron, of the one that a minute is and of those that the
// clock has just jumped over; the zero time where none is.
func (m *minutes) latest(minute time.Time) time.Time {
	_, before := minute.Add(-time.Minute).Zone()
	_, after := minute.Zone()
	wall := time.Date(minute.Year(), minute.Month(), minute.Day(), minute.Hour(), minute.Minute(), 0, 0, time.UTC)
	for back := time.Duration(0); back <= time.Duration(max(0, after-before))*time.Second; back += time.Minute {
		if w := wall.Add(-back); m[0][w.Minute()] && m[1][w.Hour()] && m[2][w.Weekday()] {
			return w
		}
	}
	return time.Time{}
}

// TestScheduleMinutes holds random schedules, around the times at which clocks are set, to what comes of going back minute by
// minute.
func TestScheduleMinutes(t *testing.T) {
	draws := 2000
	if testing.Short() || underRace {
		draws = 300
	}
	r := draft{rand.New(rand.NewPCG(1, 7))}
	held := 0
	for range draws {
		name := pick(r, zones...)
		cron, until, lasts := r.cron(), "", pick(r, 3*time.Minute, 45*time.Minute, 8*time.Hour, 30*time.Hour)
		text := fmt.Sprintf("cron: '%s', for: %dm, tz: %s", cron, lasts/time.Minute, name)
		if r.IntN(2) == 0 {
			until = r.cron()
			text = fmt.Sprintf("cron: '%s', until: '%s', tz: %s", cron, until, name)
		}
		s := schedule(t, text)
		at := noon.In(zone(t, name))
		if _, set := at.Add(time.Duration(r.IntN(400)) * 24 * time.Hour).ZoneBounds(); !set.IsZero() {
			at = set.Add(-time.Hour)
		}
		at = at.Add(time.Duration(r.IntN(12*3600)) * time.Second)
		began := func() bool {
			start := minutesOf(t, cron)
			var end minutes
			if until != "" {
				end = minutesOf(t, until)
			}
			for m := at.Truncate(time.Minute); at.Sub(m) < 15*24*time.Hour; m = m.Add(-time.Minute) {
				if until == "" && at.Sub(m) >= lasts {
					return false
				}
				if s, e := start.latest(m), end.latest(m); !s.IsZero() || !e.IsZero() {
					return !s.Before(e)
				}
			}
			t.Fatalf("%s: nothing in two weeks before %s", text, at)
			return false
		}
		want := began()
		if want {
			held++
		}
		if got := s.active(at.UTC()); got != want {
			t.Fatalf("%s at %s: got %t, by the minute %t", text, at, got, want)
		}
	}
	if held < draws/5 || held > draws*4/5 {
		t.Errorf("%d of %d hold: too few to judge by", held, draws)
	}
}

// TestWindowMinutes holds windows to what they say, each half of an hour over the weeks around the setting of clocks.
func TestWindowMinutes(t *testing.T) {
	for _, days := range []string{"Mon-Fri", "Sat,Sun", "Sun-Mon,Wed", "Fri-Sun"} {
		for _, hours := range []string{"08:00-18:00", "00:30-03:00", "22:15-02:30", "02:00-24:00"} {
			for _, name := range zones {
				w, err := parseWindow(days+" "+hours, name)
				if err != nil {
					t.Fatal(err)
				}
				for at := noon.AddDate(0, 0, -35); at.Before(noon); at = at.Add(30 * time.Minute) {
					local := at.In(w.zone)
					if got, want := w.holds(local), inHours(days, hours, local); got != want {
						t.Fatalf("%s %s at %s: got %t", days, hours, local, got)
					}
				}
			}
		}
	}
}

// BenchmarkSchedule is what one schedule costs an evaluation.
func BenchmarkSchedule(b *testing.B) {
	for name, text := range map[string]string{
		"for": "cron: '0 7 * * 1-5', for: 13h, tz: Europe/Berlin", "until": "cron: '0 7 * * 1-5', until: '0 20 * * 1-5', tz: Europe/Berlin",
	} {
		b.Run(name, func(b *testing.B) {
			s := schedule(b, text)
			for b.Loop() {
				s.active(noon)
			}
		})
	}
}

func TestScheduleZoneInCron(t *testing.T) {
	_, err := (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(rule("max: 8", "max: 8\n    schedule: [{min: 3, cron: 'CRON_TZ=Asia/Tokyo 0 5 * * *', for: 1h}]")))
	if want := `cron is "CRON_TZ=Asia/Tokyo 0 5 * * *": expected five fields, and the time zone in tz`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}
