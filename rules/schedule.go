package rules

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/robfig/cron/v3"

	"flyball/rules/source"
)

// Schedule bounds the size at times of the day, week or month.
type Schedule struct {
	Cron  string         `yaml:"cron"`  // when it begins, in the five fields of cron(8)
	Until string         `yaml:"until"` // when it ends, in the same form
	For   model.Duration `yaml:"for"`   // or how long it lasts
	TZ    string         `yaml:"tz"`    // a name of the IANA time zone database; empty: UTC
	Min   *int           `yaml:"min"`   // the least replicas meanwhile
	Max   *int           `yaml:"max"`   // the most

	start, end cron.Schedule
	zone       *time.Location
}

// maxSchedule is how long one may last: what begins once a month ends before the next.
const maxSchedule = 31 * 24 * time.Hour

func (s *Schedule) validate(d *source.Decoder, path string, rule *Scale) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if s.Cron == "" {
		fault("cron", "cron: missing: when the schedule begins, such as '0 7 * * 1-5' for 07:00 from Monday to Friday")
	} else {
		s.start = parseCron(d, path+".cron", s.Cron)
	}
	switch {
	case s.Until != "" && s.For != 0:
		fault("for", "a schedule ends by until or by for, not by both")
	case s.Until == "" && s.For == 0:
		fault("until", "until: missing: when the schedule ends, in the form of cron, or for: how long it lasts")
	case s.Until != "":
		s.end = parseCron(d, path+".until", s.Until)
	case s.For < 0 || time.Duration(s.For) > maxSchedule:
		fault("for", "for is %s: expected more than 0 and at most 31d", s.For)
	}
	zone, err := time.LoadLocation(s.TZ)
	if err != nil || s.TZ == "Local" { // the zone of the machine is another one on the next
		fault("tz", "tz is %q: expected the name of a time zone, such as Europe/Berlin", s.TZ)
		zone = time.UTC
	}
	s.zone = zone
	switch {
	case s.Min == nil && s.Max == nil:
		fault("cron", "a schedule needs min or max: the bound while it lasts")
	case s.Min != nil && *s.Min < 0:
		fault("min", "min is %d: expected 0 or more", *s.Min)
	case s.Min != nil && *s.Min > rule.Max && rule.Max > 0:
		fault("min", "min is %d, above the rule's max, which is %d", *s.Min, rule.Max)
	case s.Max != nil && *s.Max < rule.Min:
		fault("max", "max is %d, below the rule's min, which is %d", *s.Max, rule.Min)
	case s.Min != nil && s.Max != nil && *s.Min > *s.Max:
		fault("min", "min is %d, above max, which is %d", *s.Min, *s.Max)
	}
}

// maxCron is how long the fields may be: every minute of an hour written out has 170 characters.
const maxCron = 500

func parseCron(d *source.Decoder, path, text string) cron.Schedule {
	if len(text) > maxCron {
		d.FaultAt(path, 0, "%s is longer than %d characters: expected five fields: minute, hour, day of the month, month, day of the week", last(path), maxCron)
		return nil
	}
	if strings.Contains(text, "TZ=") {
		d.FaultAt(path, 0, "%s is %q: expected five fields, and the time zone in tz", last(path), text)
		return nil
	}
	parsed, err := cronFields.Parse(text)
	if err != nil {
		d.FaultAt(path, 0, "%s is %q: %s: expected five fields: minute, hour, day of the month, month, day of the week", last(path), text, err)
		return nil
	}
	return parsed
}

// cronFields are the standard ones. A time zone is a key of its own, and "@every" has no time of the day.
var cronFields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// active says whether the schedule holds at a time: it began within `for`, or has not ended since it last began. What begins
// and ends at once holds.
func (s *Schedule) active(at time.Time) bool {
	at = at.In(s.zone)
	if s.end == nil {
		_, began := fired(s.start, at, at.Add(-time.Duration(s.For)))
		return began
	}
	began, ever := fired(s.start, at, at.Add(-longestPause))
	if !ever {
		return false
	}
	ended, ever := fired(s.end, at, at.Add(-longestPause))
	if !ever || !began.at.Equal(ended.at) {
		return !ever || began.at.After(ended.at)
	}
	return !began.wall.Before(ended.wall) // both were jumped over
}

// longestPause is how long it can be from one time of a cron to the next: 29 February, where a century has none.
const longestPause = 8 * 366 * 24 * time.Hour

// firing is when a cron fired, and what the clock on the wall says, or would have said, of it.
type firing struct{ at, wall time.Time }

// fired returns when a cron last fired after a time and not after at. It goes by the clock on the wall, which is read as
// if it were UTC: cron.Next loses hours and days on which clocks are set. What a clock that is set forward jumps over fires
// when it has; what comes twice, where one is set back, fires twice.
func fired(c cron.Schedule, at, after time.Time) (last firing, ok bool) {
	for {
		set, _ := at.ZoneBounds()
		_, offset := at.Zone()
		east := time.Duration(offset) * time.Second
		within := !set.IsZero() && set.After(after)
		from := after.UTC().Add(east)
		if within {
			_, before := set.Add(-1).Zone()
			// The jump counts, the moment of it included.
			from = set.UTC().Add(min(east, time.Duration(before)*time.Second) - 1)
		}
		if wall, found := latestOf(c, at.UTC().Add(east), from); found {
			last = firing{wall.Add(-east), wall}
			if within {
				last.at = latest(last.at, set)
			}
			return last, true
		}
		if !within {
			return firing{}, false
		}
		at = set.Add(-1)
	}
}

// latestOf returns when a cron last fires after a time and not after at, both of them UTC. cron knows only what comes next.
func latestOf(c cron.Schedule, at, after time.Time) (last time.Time, ok bool) {
	next := func(t time.Time) (time.Time, bool) {
		n := c.Next(t)
		return n, !n.IsZero() && !n.After(at)
	}
	last, ok = next(after)
	if !ok {
		return time.Time{}, false
	}
	none := at // after it comes none
	for back := time.Hour; at.Add(-back).After(after); back *= 2 {
		t := at.Add(-back)
		if n, found := next(t); found {
			last = n
			break
		}
		none = t
	}
	for {
		n, found := next(last)
		if !found {
			return last, true
		}
		last = n
		middle := last.Add(none.Sub(last) / 2)
		if n, found := next(middle); found {
			last = n
		} else {
			none = middle
		}
	}
}

// words is the schedule as a reason gives it.
func (s *Schedule) words() string {
	if s.TZ == "" {
		return fmt.Sprintf("from %s UTC", s.Cron)
	}
	return fmt.Sprintf("from %s %s", s.Cron, s.TZ)
}
