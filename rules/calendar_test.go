package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/forecast"
)

// spans are the occurrences from a day on, for days, in the time zone of the calendar.
func spans(t *testing.T, text, from string, days int) (all []string) {
	t.Helper()
	c, err := ParseCalendar("events.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	zone := c.Events[0].zone
	begin, err := time.ParseInLocation(time.DateOnly, from, zone)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range c.Events[0].Event().Occurrences(begin, begin.AddDate(0, 0, days)) {
		all = append(all, o.Start.In(zone).Format("Mon 01-02 15:04 MST")+" to "+o.End.In(zone).Format("01-02 15:04 MST")+" "+o.End.Sub(o.Start).String())
	}
	return all
}

func TestCalendar(t *testing.T) {
	for _, tt := range []struct {
		name, event, from string
		days              int
		want              []string
	}{
		{
			"a weekly launch", `{name: a, rrule: 'FREQ=WEEKLY;BYDAY=TU,TH', start: '09:00', duration: 2h}`, "2026-11-23", 7,
			[]string{"Tue 11-24 09:00 UTC to 11-24 11:00 UTC 2h0m0s", "Thu 11-26 09:00 UTC to 11-26 11:00 UTC 2h0m0s"},
		},
		{
			"past midnight, begun the day before", `{name: a, rrule: FREQ=DAILY, start: '22:30', end: '06:00'}`, "2026-11-23", 1,
			[]string{"Sun 11-22 22:30 UTC to 11-23 06:00 UTC 7h30m0s", "Mon 11-23 22:30 UTC to 11-24 06:00 UTC 7h30m0s"},
		},
		{
			"whole days", `{name: a, dates: [2026-12-26, 2026-12-24], lift: 0.4}`, "2026-12-20", 20,
			[]string{"Thu 12-24 00:00 UTC to 12-25 00:00 UTC 24h0m0s", "Sat 12-26 00:00 UTC to 12-27 00:00 UTC 24h0m0s"},
		},
		{
			"a date with a time", `{name: a, dates: [2026-11-27T09:30, 2026-11-28], start: '08:00', end: '10:00'}`, "2026-11-20", 20,
			[]string{"Fri 11-27 09:30 UTC to 11-27 10:00 UTC 30m0s", "Sat 11-28 08:00 UTC to 11-28 10:00 UTC 2h0m0s"},
		},
		{
			"nine o'clock stays nine o'clock", `{name: a, rrule: 'FREQ=WEEKLY;BYDAY=SA,SU', start: '09:00', end: '10:00', timezone: Europe/Berlin}`, "2026-03-28", 2,
			[]string{"Sat 03-28 09:00 CET to 03-28 10:00 CET 1h0m0s", "Sun 03-29 09:00 CEST to 03-29 10:00 CEST 1h0m0s"},
		},
		{
			"a day of 23 hours, and one of 25", `{name: a, dates: [2026-03-29, 2026-10-25], timezone: Europe/Berlin}`, "2026-03-01", 300,
			[]string{"Sun 03-29 00:00 CET to 03-30 00:00 CEST 23h0m0s", "Sun 10-25 00:00 CEST to 10-26 00:00 CET 25h0m0s"},
		},
		{
			"a time that is jumped over, and one that comes twice", `{name: a, dates: [2026-03-29, 2026-10-25], start: '02:30', duration: 1h, timezone: Europe/Berlin}`, "2026-03-01", 300,
			[]string{"Sun 03-29 03:30 CEST to 03-29 04:30 CEST 1h0m0s", "Sun 10-25 02:30 CEST to 10-25 02:30 CET 1h0m0s"},
		},
		{
			"each second week", `{name: a, rrule: 'DTSTART=20260105;FREQ=WEEKLY;INTERVAL=2;BYDAY=MO'}`, "2026-02-01", 28,
			[]string{"Mon 02-02 00:00 UTC to 02-03 00:00 UTC 24h0m0s", "Mon 02-16 00:00 UTC to 02-17 00:00 UTC 24h0m0s"},
		},
		{
			"three times", `{name: a, rrule: 'DTSTART=20260105;FREQ=DAILY;COUNT=3'}`, "2026-01-07", 28,
			[]string{"Wed 01-07 00:00 UTC to 01-08 00:00 UTC 24h0m0s"},
		},
		{
			"until a day", `{name: a, rrule: 'FREQ=DAILY;UNTIL=20260107', start: '08:00', duration: 1h}`, "2026-01-06", 28,
			[]string{"Tue 01-06 08:00 UTC to 01-06 09:00 UTC 1h0m0s", "Wed 01-07 08:00 UTC to 01-07 09:00 UTC 1h0m0s"},
		},
		{
			"the last Friday but one", `{name: a, rrule: 'FREQ=MONTHLY;BYDAY=-1FR'}`, "2026-11-01", 60,
			[]string{"Fri 11-27 00:00 UTC to 11-28 00:00 UTC 24h0m0s", "Fri 12-25 00:00 UTC to 12-26 00:00 UTC 24h0m0s"},
		},
		{
			"twice a day", `{name: a, rrule: 'FREQ=DAILY;BYHOUR=2,14', duration: 30m}`, "2026-11-01", 1,
			[]string{"Sun 11-01 02:00 UTC to 11-01 02:30 UTC 30m0s", "Sun 11-01 14:00 UTC to 11-01 14:30 UTC 30m0s"},
		},
		{
			"by a rule and by dates, once where both are", `{name: a, rrule: 'FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=24', dates: [2026-12-24, 2026-12-31]}`, "2026-12-01", 31,
			[]string{"Thu 12-24 00:00 UTC to 12-25 00:00 UTC 24h0m0s", "Thu 12-31 00:00 UTC to 01-01 00:00 UTC 24h0m0s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, spans(t, "events: ["+tt.event+"]", tt.from, tt.days)); d != "" {
				t.Error(d)
			}
		})
	}
}

// Blocks that are asked for one after the other have what all of it has.
func TestCalendarByBlocks(t *testing.T) {
	c, err := ParseCalendar("events.yml", []byte("timezone: Europe/Berlin\nevents: [{name: a, rrule: 'DTSTART=20200106;FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR', start: '20:00', duration: 30h, lift: 2}]"))
	if err != nil {
		t.Fatal(err)
	}
	e := c.Events[0].Event()
	from := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	all := e.Occurrences(from, from.AddDate(0, 3, 0))
	var parts []forecast.Occurrence
	for at := from; at.Before(from.AddDate(0, 3, 0)); at = at.Add(7 * time.Hour) {
		for _, o := range e.Occurrences(at, at.Add(7*time.Hour)) {
			if len(parts) == 0 || parts[len(parts)-1] != o {
				parts = append(parts, o)
			}
		}
	}
	if d := cmp.Diff(all, parts); d != "" || len(all) < 12 {
		t.Errorf("%d occurrences: %s", len(all), d)
	}
	if e.Lift != 2 || e.Name != "a" {
		t.Errorf("%s, lift %g", e.Name, e.Lift)
	}
}

// Every fault is told, with its place and what was expected.
func TestCalendarFaults(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"all at once", `
events:
- name: launch
  rrule: FREQ=SECONDLY
  start: 9am
  duration: 40d
  lift: 21
- {name: launch, dates: [2026-13-24, 2026-11-27T09:30], timezone: Mars}
- {name: x, lift: 0, start: '10:00'}
- {rule: a}
`, `
events.yml:4:10: rrule is "FREQ=SECONDLY": FREQ is SECONDLY: expected YEARLY, MONTHLY, WEEKLY or DAILY; BYHOUR has several times of a day
events.yml:5:10: start is "9am": expected a time of the day, such as '09:00'
events.yml:6:13: duration is 40d: expected more than 0 and at most 31d
events.yml:7:9: lift is 21: expected above 0 and at most 20: what demand is while the event is on over what it is else, such as 1.5
events.yml:8:10: name: "launch" is there twice: expected a name of its own for each event
events.yml:8:26: dates: "2026-13-24": expected a date such as 2026-12-24, or one with a time such as 2026-11-27T09:30
events.yml:8:38: dates: "2026-11-27T09:30" has a time: expected end or duration with it
events.yml:8:67: timezone is "Mars": expected the name of a time zone, such as Europe/Berlin
events.yml:9:3: an event needs rrule, such as FREQ=WEEKLY;BYDAY=TU, or dates, such as [2026-12-24]
events.yml:9:19: lift is 0: expected above 0 and at most 20: what demand is while the event is on over what it is else, such as 1.5
events.yml:9:30: start needs end, when the event ends, or duration, how long it lasts
events.yml:10:3: name: missing: expected what the event is called
events.yml:10:4: unknown key "rule" (did you mean "rrule"?)
`},
		{"none", "timezone: Mars\n", "\nevents.yml:1:11: timezone is \"Mars\": expected the name of a time zone, such as Europe/Berlin\n"},
		{"no list", "{}", "\nevents.yml:1:1: events: missing: expected a list of events\n"},
		{"no such option", "events: [{name: a, rrule: 'FREQ=DAILY;BYDY=MO'}]", `
events.yml:1:28: rrule is "FREQ=DAILY;BYDY=MO": unknown RRULE property: BYDY: expected a rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=TU,TH
`},
		{"nothing to count from", "events: [{name: a, rrule: 'FREQ=DAILY;COUNT=3'}]", `
events.yml:1:28: rrule is "FREQ=DAILY;COUNT=3": COUNT and INTERVAL count from a day: expected it before the rest, such as DTSTART=20260105;FREQ=WEEKLY;INTERVAL=2;BYDAY=MO
`},
		{"no day of the week", "events: [{name: a, rrule: FREQ=WEEKLY}]", `
events.yml:1:27: rrule is "FREQ=WEEKLY": expected BYDAY with FREQ=WEEKLY, or DTSTART
`},
		{"never", "events: [{name: a, rrule: 'FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30'}]", `
events.yml:1:28: rrule is "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30": it never comes
`},
		{"two times", "events: [{name: a, rrule: 'FREQ=DAILY;BYHOUR=3', start: '09:00', end: '10:00', duration: 1h}]", `
events.yml:1:28: rrule is "FREQ=DAILY;BYHOUR=3": expected the time in start or in BYHOUR and BYMINUTE, not in both
events.yml:1:90: an event ends by end or by duration, not by both
`},
		{"seventeen", "events: [" + strings.Repeat("{name: a, dates: [2026-01-01]}, ", 17) + "]", `
events.yml:1:1: events: 17 events: expected 16 at most
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseCalendar("events.yml", []byte(tt.text))
			if err == nil {
				t.Fatal("no error")
			}
			got := "\n"
			for line := range strings.Lines(err.Error() + "\n") {
				if strings.HasPrefix(line, "events.yml:") {
					got += line
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// FuzzCalendar: any rule is refused or has occurrences, in order, none after what was asked for.
func FuzzCalendar(f *testing.F) {
	for _, rule := range []string{"FREQ=WEEKLY;BYDAY=TU", "DTSTART=20260105;FREQ=DAILY;COUNT=3", "FREQ=MONTHLY;BYDAY=-1FR;BYSETPOS=1", "FREQ=YEARLY;BYEASTER=1", "FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO"} {
		f.Add(rule, "09:00", "2026-12-24")
	}
	f.Fuzz(func(t *testing.T, rule, start, date string) {
		c, err := ParseCalendar("events.yml", []byte("events: [{name: a, rrule: '"+rule+"', start: '"+start+"', dates: ['"+date+"'], duration: 3h}]"))
		if err != nil {
			return
		}
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		last := time.Time{}
		for _, o := range c.Events[0].Event().Occurrences(from, from.AddDate(1, 0, 0)) {
			if !o.Start.After(last) || !o.End.After(from) || !o.Start.Before(from.AddDate(1, 0, 0)) {
				t.Fatalf("%v after %v", o, last)
			}
			last = o.Start
		}
	})
}

// The example is right.
func TestCalendarExample(t *testing.T) {
	c, err := ReadCalendar("../examples/forecast/events.yml")
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var got []string
	for _, e := range ForecastEvents(c.Events) {
		got = append(got, fmt.Sprintf("%s %g %d", e.Name, e.Lift, len(e.Occurrences(from, from.AddDate(0, 3, 0)))))
	}
	if d := cmp.Diff([]string{"release 1.5 13", "payday 0 3", "nightly batch 0 46", "holiday 0.4 4", "launch 2 1"}, got); d != "" {
		t.Error(d)
	}
}

// TestCalendarAsked: what one forecaster of a rule has asked is answered to the others by what is known, of any number of questions.
func TestCalendarAsked(t *testing.T) {
	c, err := ParseCalendar("e.yml", []byte("events:\n- {name: a, rrule: 'DTSTART=20000101;FREQ=DAILY', start: '09:00', duration: 1h}\n"))
	if err != nil {
		t.Fatal(err)
	}
	one, other := ForecastEvents(c.Events)[0], ForecastEvents(c.Events)[0]
	day := func(i int) (from, to time.Time) {
		from = time.Date(2026, 3, 1+i, 0, 0, 0, 0, time.UTC)
		return from, from.Add(24 * time.Hour)
	}
	for i := range 3 * maxAsked {
		from, to := day(i)
		a, b := one.Occurrences(from, to), other.Occurrences(from, to)
		if len(a) != 1 || !a[0].Start.Equal(from.Add(9*time.Hour)) || len(b) != 1 || &a[0] != &b[0] {
			t.Fatalf("%s: %v, %v", from, a, b)
		}
	}
	if n := len(c.Events[0].asked.answers); n > maxAsked {
		t.Errorf("%d answers are kept", n)
	}
}
