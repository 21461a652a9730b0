package web

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"flyball/rules/promapi"
)

// params reads parameters the way Prometheus's API does, with its texts; err is the first fault.
type params struct{ err error }

func (p *params) fault(name string, err error) {
	if p.err == nil {
		p.err = promapi.InvalidParameter(name, err)
	}
}

// limit is a number of entries, 0 for no limit.
func (p *params) limit(r *http.Request) int {
	n, err := parseLimit(r.FormValue("limit"))
	if err != nil {
		p.fault("limit", err)
	}
	return n
}

// time is a time that need not be given.
func (p *params) time(r *http.Request, name string, otherwise time.Time) time.Time {
	text := r.FormValue(name)
	if text == "" {
		return otherwise
	}
	t, err := parsePrometheusTime(text)
	if err != nil {
		p.fault(name, fmt.Errorf("invalid time value for '%s': %w", name, err))
	}
	return t
}

// givenTime is a time that must be given.
func (p *params) givenTime(r *http.Request, name string) time.Time {
	t, err := parsePrometheusTime(r.FormValue(name))
	if err != nil {
		p.fault(name, err)
	}
	return t
}

// step is the distance between two points. Prometheus counts in milliseconds; below one, its engine divides by zero.
func (p *params) step(r *http.Request) time.Duration {
	d, err := parseDuration(r.FormValue("step"))
	switch {
	case err != nil:
		p.fault("step", err)
	case d <= 0:
		p.fault("step", errors.New("zero or negative query resolution step widths are not accepted. Try a positive integer"))
	case d < time.Millisecond:
		p.fault("step", errors.New("query resolution step widths below a millisecond are not accepted"))
	}
	return d
}

func (p *params) lookback(r *http.Request) time.Duration {
	text := r.FormValue("lookback_delta")
	if text == "" {
		return 0
	}
	d, err := parseDuration(text)
	if err != nil && p.err == nil {
		p.err = &promapi.Error{Type: promapi.BadData, Err: fmt.Errorf("error parsing lookback delta duration: %w", err)}
	}
	return d
}

// context ends with the request, and after the time that the client gives it.
func (p *params) context(r *http.Request) (context.Context, context.CancelFunc) {
	text := r.FormValue("timeout")
	if text == "" {
		return r.Context(), func() {}
	}
	d, err := parseDuration(text)
	if err != nil {
		p.fault("timeout", err)
	}
	return context.WithTimeout(r.Context(), d)
}

func (p *params) excludeAlerts(r *http.Request) bool {
	text := strings.ToLower(r.URL.Query().Get("exclude_alerts"))
	if text == "" {
		return false
	}
	exclude, err := strconv.ParseBool(text)
	if err != nil {
		p.fault("exclude_alerts", fmt.Errorf("error converting exclude_alerts: %w", err))
	}
	return exclude
}

func (p *params) groupPage(r *http.Request) (limit int, token string) {
	text, token := r.URL.Query().Get("group_limit"), r.URL.Query().Get("group_next_token")
	if text == "" {
		if token != "" {
			p.fault("group_next_token", errors.New("group_limit needs to be present in order to paginate over the groups"))
		}
		return 0, ""
	}
	n, err := strconv.ParseInt(text, 10, 32)
	switch {
	case err != nil:
		p.fault("group_limit", fmt.Errorf("group_limit needs to be a valid number: %w", err))
	case n <= 0:
		p.fault("group_limit", errors.New("group_limit needs to be greater than 0"))
	}
	return int(n), token
}

// number is a limit of the kind that metadata has: -1 if it is not given.
func (p *params) number(r *http.Request, name string) int {
	text := r.FormValue(name)
	if text == "" {
		return -1
	}
	n, err := strconv.Atoi(text)
	if err != nil && p.err == nil {
		p.err = &promapi.Error{Type: promapi.BadData, Err: fmt.Errorf("%s must be a number", name)}
	}
	return n
}

func parseLimit(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, err
	}
	if n < 0 {
		return 0, errors.New("limit must be non-negative")
	}
	return n, nil
}

// parsePrometheusTime takes Unix seconds, with decimals of which milliseconds count, and RFC 3339. What is beyond
// promapi.MinTime or MaxTime by no more than a float64 cannot tell apart is that time; what is further out, or NaN, which
// Prometheus turns into some time, is an error.
func parsePrometheusTime(text string) (time.Time, error) {
	if t, err := strconv.ParseFloat(text, 64); err == nil {
		switch {
		case math.IsNaN(t) || math.Abs(t) > math.MaxInt64/1000:
			return time.Time{}, fmt.Errorf("cannot parse %q to a valid timestamp", text)
		case t <= float64(promapi.MinTime.Unix()):
			return promapi.MinTime, nil
		case t >= float64(promapi.MaxTime.Unix()):
			return promapi.MaxTime, nil
		}
		whole, part := math.Modf(t)
		return time.Unix(int64(whole), int64(math.Round(part*1000)/1000*float64(time.Second))).UTC(), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, limit := range []time.Time{promapi.MinTime, promapi.MaxTime} { // years that time.Parse does not read
		if text == limit.Format(time.RFC3339Nano) {
			return limit, nil
		}
	}
	return time.Time{}, fmt.Errorf("cannot parse %q to a valid timestamp", text)
}

// parseDuration takes seconds, with decimals, and Prometheus's durations such as 1h30m.
func parseDuration(text string) (time.Duration, error) {
	if s, err := strconv.ParseFloat(text, 64); err == nil {
		ns := s * float64(time.Second)
		switch {
		case math.IsNaN(ns):
			return 0, fmt.Errorf("cannot parse %q to a valid duration", text)
		case ns >= math.MaxInt64 || ns <= math.MinInt64:
			return 0, fmt.Errorf("cannot parse %q to a valid duration. It overflows int64", text)
		}
		return time.Duration(ns), nil
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("cannot parse %q to a valid duration", text)
	}
	return time.Duration(d), nil
}
