package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// span is a window of the week: some of its days, between two times of the day.
type span struct {
	days     [7]bool
	from, to time.Duration // since midnight; to before from: until the next day
}

var dayNames = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// parseSpan reads a window such as "Mon-Fri 08:00-18:00" or "Sat,Sun 22:00-06:00".
func parseSpan(text string) (w span, err error) {
	days, hours, found := strings.Cut(strings.TrimSpace(text), " ")
	if !found {
		return w, fmt.Errorf("%q is not a window: expected days and hours, such as Mon-Fri 08:00-18:00", text)
	}
	for part := range strings.SplitSeq(days, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, to := slices.Index(dayNames, first), slices.Index(dayNames, last)
		if from < 0 || to < 0 {
			return w, fmt.Errorf("%q is not a day or a range of days: expected %s, such as Mon-Fri", part, strings.Join(dayNames, " "))
		}
		for day := from; ; day = (day + 1) % 7 {
			w.days[day] = true
			if day == to {
				break
			}
		}
	}
	from, to, found := strings.Cut(strings.TrimSpace(hours), "-")
	if !found {
		return w, fmt.Errorf("%q is not a range of hours, such as 08:00-18:00", hours)
	}
	if w.from, err = clock(from); err != nil {
		return w, err
	}
	if w.to, err = clock(to); err != nil {
		return w, err
	}
	if w.from == w.to {
		return w, fmt.Errorf("%q begins when it ends", hours)
	}
	return w, nil
}

// clock is a time of the day; 24:00 is its end.
func clock(text string) (time.Duration, error) {
	if text == "24:00" {
		return 24 * time.Hour, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of the day, such as 08:00", text)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

func (w span) holds(at time.Time) bool {
	day := int(at.Weekday())
	clock := time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute + time.Duration(at.Second())*time.Second
	if w.from < w.to {
		return w.days[day] && clock >= w.from && clock < w.to
	}
	return w.days[day] && clock >= w.from || w.days[(day+6)%7] && clock < w.to
}

// window is a span in a time zone.
type window struct {
	span
	zone *time.Location
}

func parseWindow(text, zone string) (w window, err error) {
	if w.span, err = parseSpan(text); err != nil {
		return w, err
	}
	if w.zone, err = time.LoadLocation(zone); err != nil || zone == "Local" {
		return w, fmt.Errorf("%q is not the name of a time zone, such as Europe/Berlin", zone)
	}
	return w, nil
}
