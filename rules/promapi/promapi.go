package promapi

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Query is an instant query.
type Query struct {
	Expr     string // PromQL
	Time     time.Time
	Lookback time.Duration // how old the last sample of a series may be; 0: the store's own
	Limit    int           // the most series of the answer; 0: no limit
	Stats    bool          // the answer tells what the query cost
}

// Range is a query at each Step from Start to End.
type Range struct {
	Expr       string
	Start, End time.Time
	Step       time.Duration // above 0
	Lookback   time.Duration
	Limit      int
	Stats      bool
}

// Selection is the series, labels or label values between two times.
type Selection struct {
	Match      []string // selectors, of which one must match; none: every series
	Start, End time.Time
	Limit      int // the most entries of the answer; 0: no limit
}

// Exemplars are those of the series that an expression selects.
type Exemplars struct {
	Expr       string
	Start, End time.Time
}

// MinTime and MaxTime are the times that stand for no limit, in Prometheus's API too.
var (
	MinTime = time.Unix(math.MinInt64/1000+62135596801, 0).UTC()
	MaxTime = time.Unix(math.MaxInt64/1000-62135596801, 999999999).UTC()
)

// RuleFilter selects record and alert rules; empty fields select all.
type RuleFilter struct {
	Alerts, Records      bool // the kinds to return
	Names, Groups, Files []string
	Match                []string // selectors of the rules' own labels
	ExcludeAlerts        bool     // leaves out the alerts that are active
	GroupLimit           int      // the most groups of the answer; 0: all
	NextToken            string   // of the answer before this one: where to go on; needs GroupLimit
}

// TargetFilter selects scrape targets.
type TargetFilter struct {
	Active, Dropped bool
	Pool            string // the job; "": all
}

// MetadataFilter selects what targets tell of their metrics. A negative limit is none.
type MetadataFilter struct {
	Metric                string // "": all
	Limit, LimitPerMetric int
}

// Result is a successful answer. Close must be called when it has been written.
type Result struct {
	Data     Data
	Warnings []string
	Infos    []string

	Release func() // called by Close; nil: there is nothing to let go of
}

// Close lets go of what the answer holds.
func (r *Result) Close() {
	if r.Release != nil {
		r.Release()
	}
}

// Data is the data of an answer. It is written at most once.
type Data interface {
	// WriteJSON writes the data as JSON. An error of the writer stays in it.
	WriteJSON(w *bufio.Writer)
}

// Partial returns why an answer is of a part of the data only, "" when it is whole. Warnings of PromQL are about the query;
// any other, such as Thanos's and those of a remote read, says that something could not be had.
func Partial(warnings []string) string {
	for _, w := range warnings {
		if !strings.HasPrefix(w, "PromQL warning: ") && !strings.HasPrefix(w, "PromQL info: ") {
			return w
		}
	}
	return ""
}

// ErrorType is what kind of fault an error is, in the words of Prometheus's API.
type ErrorType string

// The types of errors, each with the HTTP status that goes with it.
const (
	BadData     ErrorType = "bad_data"    // 400: the request is at fault
	Execution   ErrorType = "execution"   // 422: the query cannot be carried out
	Canceled    ErrorType = "canceled"    // 499: the client went away
	Timeout     ErrorType = "timeout"     // 503: it took too long
	Internal    ErrorType = "internal"    // 500: the store is at fault
	NotFound    ErrorType = "not_found"   // 404
	Unavailable ErrorType = "unavailable" // 503: the store is closed
)

// Error is an error that knows its type.
type Error struct {
	Type ErrorType
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// InvalidParameter is the error of a parameter that cannot be what it is, in Prometheus's words.
func InvalidParameter(name string, err error) error {
	return &Error{BadData, fmt.Errorf("invalid parameter %q: %w", name, err)}
}

// TypeOf returns the type of an error; of one without, Internal.
func TypeOf(err error) ErrorType {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Type
	}
	return Internal
}
