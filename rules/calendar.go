package rules

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/teambition/rrule-go"

	"flyball/forecast"
	"flyball/rules/source"
)

// CalendarEvent is something that comes at known times and changes demand while it is on.
type CalendarEvent struct {
	Name     string         `yaml:"name"`
	RRule    string         `yaml:"rrule"`    // which days it comes on, as RFC 5545 has it
	Dates    []string       `yaml:"dates"`    // or which, where no rule says it: 2026-12-24, or 2026-11-27T09:30
	Start    string         `yaml:"start"`    // when it begins, such as 09:00; empty: midnight
	End      string         `yaml:"end"`      // when it ends, on the next day if that is not after start
	Duration model.Duration `yaml:"duration"` // or how long it lasts; without either: to midnight
	Timezone string         `yaml:"timezone"` // a name of the IANA time zone database; empty: that of the forecast
	Lift     float64        `yaml:"lift"`     // demand over what it is else, before that was seen; 0: not known

	zone       *time.Location
	rule       *rrule.ROption // nil if there is none
	anchored   bool           // it counts from a date
	dates      []wallTime     // sorted
	start, end wallClock
	asked      *askedOccurrences // shared by the forecasters of a rule
}

// The bounds of a calendar.
const (
	maxEvents    = 16
	maxDates     = 1000
	maxEventLift = 20
	maxRRule     = 500
	maxTimes     = 48 // of one day
	// maxLasting is how long an event may last. What lasts longer is no event.
	maxLasting = 31 * 24 * time.Hour
	// firstDTSTART bounds how many occurrences there may be before the first that is asked for.
	firstDTSTART = 2000
)

// wallClock is minutes after midnight as the clock on the wall has it; -1 if it is not given.
type wallClock int

// wallTime is what the calendar and the clock on the wall say, read as if it were UTC. Its clock is -1 if only a day is given.
type wallTime struct {
	day   time.Time
	clock wallClock
}

func parseClock(text string, most int) (wallClock, bool) {
	at, err := time.Parse("15:04", text)
	if text == "24:00" && most == 24*60 {
		return 24 * 60, true
	}
	return wallClock(at.Hour()*60 + at.Minute()), err == nil && len(text) == 5
}

func parseWallTime(text string) (wallTime, bool) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return wallTime{day, -1}, true
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		if at, err := time.Parse(layout, text); err == nil {
			return wallTime{at.Truncate(24 * time.Hour), wallClock(at.Hour()*60 + at.Minute())}, true
		}
	}
	return wallTime{}, false
}

// validateEvents checks a list of events at a path; zone is the time zone of those that name none.
func validateEvents(d *source.Decoder, path string, events []CalendarEvent, zone string) {
	if len(events) > maxEvents {
		d.FaultAt(path, 0, "%s: %d events: expected %d at most", last(path), len(events), maxEvents)
		return
	}
	named := map[string]bool{}
	for i := range events {
		e, at := &events[i], fmt.Sprintf("%s[%d]", path, i)
		switch {
		case e.Name == "":
			d.FaultAt(at+".name", 0, "name: missing: expected what the event is called")
		case named[e.Name]:
			d.FaultAt(at+".name", 0, "name: %q is there twice: expected a name of its own for each event", e.Name)
		}
		named[e.Name] = true
		e.validate(d, at, zone)
	}
}

func (e *CalendarEvent) validate(d *source.Decoder, path, zone string) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if e.Timezone != "" {
		zone = e.Timezone
	}
	var err error
	if e.zone, err = time.LoadLocation(zone); err != nil || zone == "Local" {
		if e.Timezone != "" { // else the forecast's own is at fault
			fault("timezone", "timezone is %q: expected the name of a time zone, such as Europe/Berlin", e.Timezone)
		}
		e.zone = time.UTC
	}
	if d.Has(path+".lift") && !(e.Lift > 0 && e.Lift <= maxEventLift) {
		fault("lift", "lift is %g: expected above 0 and at most %d: what demand is while the event is on over what it is else, such as 1.5", e.Lift, maxEventLift)
	}
	e.start, e.end = -1, -1
	e.asked = &askedOccurrences{}
	var ok bool
	if e.Start != "" {
		if e.start, ok = parseClock(e.Start, 0); !ok {
			fault("start", "start is %q: expected a time of the day, such as '09:00'", e.Start)
		}
	}
	if e.End != "" {
		if e.end, ok = parseClock(e.End, 24*60); !ok {
			fault("end", "end is %q: expected a time of the day, such as '17:30'", e.End)
		}
	}
	switch {
	case e.End != "" && e.Duration != 0:
		fault("duration", "an event ends by end or by duration, not by both")
	case e.Duration < 0 || time.Duration(e.Duration) > maxLasting || d.Has(path+".duration") && e.Duration == 0:
		fault("duration", "duration is %s: expected more than 0 and at most 31d", e.Duration)
	case e.Start != "" && e.End == "" && e.Duration == 0:
		fault("start", "start needs end, when the event ends, or duration, how long it lasts")
	}
	if e.RRule == "" && len(e.Dates) == 0 {
		d.FaultAt(path, 0, "an event needs rrule, such as FREQ=WEEKLY;BYDAY=TU, or dates, such as [2026-12-24]")
	}
	if e.RRule != "" {
		e.parseRule(d, path+".rrule")
	}
	if len(e.Dates) > maxDates {
		fault("dates", "dates: %d of them: expected %d at most", len(e.Dates), maxDates)
		return
	}
	for i, text := range e.Dates {
		at, ok := parseWallTime(text)
		if !ok {
			fault(fmt.Sprintf("dates[%d]", i), "dates: %q: expected a date such as 2026-12-24, or one with a time such as 2026-11-27T09:30", text)
			continue
		}
		if at.clock >= 0 && e.End == "" && e.Duration == 0 {
			fault(fmt.Sprintf("dates[%d]", i), "dates: %q has a time: expected end or duration with it", text)
		}
		e.dates = append(e.dates, at)
	}
}

// parseRule reads the rule and refuses what would come too often, or never.
func (e *CalendarEvent) parseRule(d *source.Decoder, path string) {
	fault := func(format string, args ...any) {
		d.FaultAt(path, 0, "rrule is %q: "+format, append([]any{e.RRule}, args...)...)
	}
	if len(e.RRule) > maxRRule {
		d.FaultAt(path, 0, "rrule is longer than %d characters: expected one rule, such as FREQ=WEEKLY;BYDAY=TU", maxRRule)
		return
	}
	if strings.Contains(e.RRule, "TZID") {
		fault("expected the time zone in timezone")
		return
	}
	o, err := rrule.StrToROption(e.RRule)
	if err != nil {
		fault("%s: expected a rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=TU,TH", err)
		return
	}
	times := max(len(o.Byhour), 1) * max(len(o.Byminute), 1)
	counts := o.Count > 0 || o.Interval > 1
	var needs string
	switch o.Freq {
	case rrule.YEARLY:
		if len(o.Byyearday)+len(o.Byweekno)+len(o.Byeaster)+len(o.Byweekday)+len(o.Bymonthday) == 0 {
			needs = "BYMONTH and BYMONTHDAY"
		}
	case rrule.MONTHLY:
		if len(o.Byyearday)+len(o.Byeaster)+len(o.Byweekday)+len(o.Bymonthday) == 0 {
			needs = "BYMONTHDAY or BYDAY"
		}
	case rrule.WEEKLY:
		if len(o.Byweekday) == 0 {
			needs = "BYDAY"
		}
	}
	switch {
	case o.Freq > rrule.DAILY:
		fault("FREQ is %s: expected YEARLY, MONTHLY, WEEKLY or DAILY; BYHOUR has several times of a day", o.Freq)
	case len(o.Bysecond) > 0:
		fault("an event begins on a minute: expected no BYSECOND")
	case times > maxTimes:
		fault("%d times a day: expected %d at most", times, maxTimes)
	case e.Start != "" && len(o.Byhour)+len(o.Byminute) > 0:
		fault("expected the time in start or in BYHOUR and BYMINUTE, not in both")
	case len(o.Byhour) == 0 && len(o.Byminute) > 0:
		fault("BYMINUTE needs BYHOUR")
	case len(o.Byhour) > 0 && e.End == "" && e.Duration == 0:
		fault("BYHOUR needs end, when the event ends, or duration, how long it lasts")
	case o.Dtstart.IsZero() && counts:
		fault("COUNT and INTERVAL count from a day: expected it before the rest, such as DTSTART=20260105;FREQ=WEEKLY;INTERVAL=2;BYDAY=MO")
	case o.Dtstart.IsZero() && needs != "":
		fault("expected %s with FREQ=%s, or DTSTART", needs, o.Freq)
	case !o.Dtstart.IsZero() && (o.Dtstart.Year() < firstDTSTART || o.Dtstart.Year() > 9000):
		fault("DTSTART is in %d: expected %d or later", o.Dtstart.Year(), firstDTSTART)
	default:
		e.anchored = !o.Dtstart.IsZero()
		if e.anchored && e.Start == "" && len(o.Byhour) == 0 && o.Dtstart.Hour()+o.Dtstart.Minute() > 0 {
			fault("DTSTART has a time: expected a day, and the time in start")
			return
		}
		if !o.Until.IsZero() && strings.Contains(e.RRule, "Z") && o.Until.Hour()+o.Until.Minute() > 0 {
			o.Until = wall(o.Until.In(e.zone)) // it is given in UTC
		} else if !o.Until.IsZero() && o.Until.Equal(o.Until.Truncate(24*time.Hour)) {
			o.Until = o.Until.Add(24*time.Hour - time.Second) // a day counts to its end
		}
		o.Dtstart = o.Dtstart.Truncate(24 * time.Hour)
		if !e.anchored {
			o.Dtstart = time.Date(firstDTSTART, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		if len(o.Byhour) > 0 && len(o.Byminute) == 0 {
			o.Byminute = []int{0}
		}
		o.Bysecond = []int{0}
		r, err := rrule.NewRRule(*o)
		if err != nil {
			fault("%s: expected a rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=TU,TH", err)
			return
		}
		if _, ever := r.Iterator()(); !ever {
			fault("it never comes")
			return
		}
		e.rule = o
	}
}

// wall is what the clock on the wall says at a time, read as if it were UTC.
func wall(at time.Time) time.Time {
	_, offset := at.Zone()
	return at.UTC().Add(time.Duration(offset) * time.Second)
}

// Event is the event as a forecaster takes it. It comes by the clock on the wall of its time zone: at 09:00 before and after clocks
// are set. What a clock that is set forward jumps over begins an hour later; of a time that comes twice the first counts.
func (e *CalendarEvent) Event() forecast.Event {
	return forecast.Event{Name: e.Name, Lift: e.Lift, Occurrences: func(from, to time.Time) []forecast.Occurrence {
		return e.asked.ask(from, to, e.occurrences)
	}}
}

// askedOccurrences are the answers to the last questions: all series of a rule ask the same ones, and a rule that counts from long ago
// takes long to answer.
type askedOccurrences struct {
	mu      sync.Mutex
	answers map[[2]int64][]forecast.Occurrence
}

// maxAsked is more than the blocks of a history, each of which is one question.
const maxAsked = 64

func (a *askedOccurrences) ask(from, to time.Time, answer func(from, to time.Time) []forecast.Occurrence) []forecast.Occurrence {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := [2]int64{from.UnixNano(), to.UnixNano()}
	if all, asked := a.answers[key]; asked {
		return all
	}
	if len(a.answers) >= maxAsked || a.answers == nil {
		a.answers = map[[2]int64][]forecast.Occurrence{}
	}
	all := answer(from, to)
	a.answers[key] = all
	return all
}

// occurrences are those that overlap the time from from to to, in order.
func (e *CalendarEvent) occurrences(from, to time.Time) (all []forecast.Occurrence) {
	if !from.Before(to) {
		return nil
	}
	first, end := wall(from.In(e.zone)).Add(-maxLasting-48*time.Hour), wall(to.In(e.zone)).Add(24*time.Hour)
	add := func(at wallTime) {
		o := e.occurrence(at)
		if o.Start.Before(to) && o.End.After(from) {
			all = append(all, o)
		}
	}
	if e.rule != nil {
		o := *e.rule
		if !e.anchored { // counted from the start of a year
			o.Dtstart = time.Date(first.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
		}
		if r, err := rrule.NewRRule(o); err == nil { // as it was when it was read
			next := r.Iterator()
			for at, more := next(); more && at.Before(end); at, more = next() {
				if at.Before(first) {
					continue
				}
				clock := wallClock(-1)
				if len(o.Byhour) > 0 {
					clock = wallClock(at.Hour()*60 + at.Minute())
				}
				add(wallTime{at.Truncate(24 * time.Hour), clock})
			}
		}
	}
	for _, at := range e.dates {
		if !at.day.Before(first) && at.day.Before(end) {
			add(at)
		}
	}
	slices.SortFunc(all, func(a, b forecast.Occurrence) int { return a.Start.Compare(b.Start) })
	return slices.CompactFunc(all, func(a, b forecast.Occurrence) bool { return a.Start.Equal(b.Start) })
}

// occurrence is once that it comes.
func (e *CalendarEvent) occurrence(at wallTime) forecast.Occurrence {
	clock := at.clock
	if clock < 0 {
		clock = max(e.start, 0)
	}
	on := func(clock wallClock) time.Time {
		y, m, d := at.day.Date()
		t := time.Date(y, m, d, 0, int(clock), 0, 0, e.zone)
		if set, _ := t.ZoneBounds(); !set.IsZero() {
			_, before := set.Add(-1).Zone()
			_, now := t.Zone()
			if first := t.Add(time.Duration(now-before) * time.Second); first.Before(t) && wall(first).Equal(wall(t)) {
				return first
			}
		}
		return t
	}
	start := on(clock)
	switch {
	case e.Duration > 0:
		return forecast.Occurrence{Start: start, End: start.Add(time.Duration(e.Duration))}
	case e.end < 0:
		return forecast.Occurrence{Start: start, End: on(24 * 60)}
	case e.end <= clock:
		return forecast.Occurrence{Start: start, End: on(24*60 + e.end)}
	}
	return forecast.Occurrence{Start: start, End: on(e.end)}
}

// Calendar is a file of events.
type Calendar struct {
	Timezone string          `yaml:"timezone"` // of events that name none; empty: UTC
	Events   []CalendarEvent `yaml:"events"`
}

// ReadCalendar reads a file of events: the list of a forecast rule under events. The error is a source.Errors with every fault,
// or says why the file could not be read.
func ReadCalendar(name string) (*Calendar, error) {
	text, err := source.Read(name)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return ParseCalendar(name, text)
}

// ParseCalendar parses the text of a file of events. The error is of type source.Errors.
func ParseCalendar(name string, text []byte) (*Calendar, error) {
	parsed, err := source.ParseFirst(name, text)
	if err != nil {
		return nil, err
	}
	d := parsed.Decoder()
	var c Calendar
	d.Decode(&c)
	if _, err := time.LoadLocation(c.Timezone); err != nil || c.Timezone == "Local" {
		d.FaultAt("timezone", 0, "timezone is %q: expected the name of a time zone, such as Europe/Berlin", c.Timezone)
	}
	if len(c.Events) == 0 && d.Len() == 0 {
		d.FaultAt("events", 0, "events: missing: expected a list of events")
	}
	validateEvents(d, "events", c.Events, c.Timezone)
	if err := d.Err(); err != nil {
		return nil, err
	}
	return &c, nil
}

// ForecastEvents are the events as a forecaster takes them.
func ForecastEvents(events []CalendarEvent) (all []forecast.Event) {
	for i := range events {
		all = append(all, events[i].Event())
	}
	return all
}
