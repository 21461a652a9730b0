package remote

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
	"flyball/rules/promapi"
)

// answer is what the API said.
type answer struct {
	status    string
	errorType string
	message   string
	warnings  []string // the first few
	partial   string   // why a part of the data is missing; "" when it is all there
	kind      string   // resultType
	samples   []rules.Sample
}

const (
	maxLabels   = 256 // of a series
	maxWarnings = 8   // that are kept; one is enough to be told

	// isPartial is what is said of an answer of VictoriaMetrics's cluster that says no more itself.
	isPartial = "isPartial is set: some storage nodes did not answer"
)

// decoder decodes the answer to an instant query.
type decoder struct {
	*scanner
	answer
	at        time.Time // of the samples
	maxSeries int
	seen      map[uint64]struct{} // hashes of the series
	labels    labels.ScratchBuilder
	results   int  // how many there are: one
	scalar    bool // the result is one sample and no list of series
	matrix    bool // a series has more than one sample
	histogram string
}

// decode reads an answer to its end. What is no answer, or one that cannot be used, is an error.
func decode(r io.Reader, at time.Time, maxSeries int) (*answer, error) {
	d := &decoder{
		scanner: newScanner(r), at: at, maxSeries: maxSeries, seen: map[uint64]struct{}{}, labels: labels.NewScratchBuilder(16),
	}
	if err := d.object(d.top); err != nil {
		return nil, err
	}
	if err := d.finish(); err != nil {
		return nil, err
	}
	switch {
	case d.status == "error":
		return &d.answer, nil
	case d.status != "success":
		return nil, fmt.Errorf("its status is %q: expected success or error", d.status)
	case d.kind == "matrix" || d.matrix:
		return nil, errors.New("it gives a range of samples for each series: make one value of them, for example with rate or avg_over_time")
	case d.kind == "string":
		return nil, errors.New("it gives a string: a query must give numbers")
	case d.histogram != "":
		return nil, fmt.Errorf("%s is a native histogram: take a number from it, for example with histogram_quantile", d.histogram)
	case d.results != 1, d.kind != "vector" && d.kind != "scalar", (d.kind == "scalar") != d.scalar:
		return nil, fmt.Errorf("its result is not that of a query: resultType is %q", d.kind)
	}
	return &d.answer, nil
}

func (d *decoder) top(key string) (err error) {
	switch key {
	case "status":
		d.status, err = d.string()
	case "errorType":
		d.errorType, err = d.string()
	case "error":
		d.message, err = d.string()
	case "warnings":
		err = d.warn()
	case "isPartial": // VictoriaMetrics's cluster
		var partial bool
		if partial, err = d.bool(); partial {
			d.partial = isPartial
		}
	case "data":
		err = d.data()
	default:
		err = d.skip(1)
	}
	return err
}

// warn reads warnings, of which the first few are kept.
func (d *decoder) warn() error {
	return d.texts(func(text string) {
		if d.partial == "" {
			d.partial = brief(promapi.Partial([]string{text}))
		}
		if len(d.warnings) < maxWarnings {
			d.warnings = append(d.warnings, brief(text))
		}
	})
}

func (d *decoder) data() error {
	if null, err := d.null(); null || err != nil {
		return err
	}
	return d.object(func(key string) (err error) {
		switch key {
		case "resultType":
			d.kind, err = d.string()
		case "result":
			err = d.result()
		default:
			err = d.skip(2)
		}
		return err
	})
}

// result reads a list of series, or a scalar or a string, which is a list of a time and a value.
func (d *decoder) result() error {
	d.results++
	if null, err := d.null(); null || err != nil {
		return err
	}
	n, value := 0, ""
	err := d.array(func() error {
		c, err := d.next()
		if err != nil {
			return err
		}
		d.back()
		n++
		switch {
		case c == '{' && !d.scalar:
			return d.series()
		case c != '{' && n == 1:
			d.scalar = true
			return d.number()
		case n == 2 && d.scalar:
			value, err = d.string()
			return err
		}
		return d.fault("a result that is neither series nor a number")
	})
	if err != nil || !d.scalar || d.kind == "string" {
		return err
	}
	if n != 2 {
		return d.fault("a scalar without a value")
	}
	v, err := d.value(value)
	d.samples = []rules.Sample{{Value: v, Time: d.at}}
	return err
}

func (d *decoder) value(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // what is out of range is infinite, or 0
		return 0, d.fault("%q is not a value", brief(text))
	}
	return v, nil
}

// series reads one series and its value.
func (d *decoder) series() error {
	if len(d.samples) == d.maxSeries {
		return fmt.Errorf("it has more than %d series (max_series): aggregate, or select fewer", d.maxSeries)
	}
	d.labels.Reset()
	valued, histogram := false, false
	sample := rules.Sample{Time: d.at}
	err := d.object(func(key string) error {
		switch key {
		case "metric":
			return d.metric()
		case "value":
			if valued {
				return d.fault("a series with two values")
			}
			valued = true
			n := 0
			err := d.array(func() (err error) {
				switch n++; n {
				case 1:
					return d.number()
				case 2:
					var text string
					if text, err = d.string(); err == nil {
						sample.Value, err = d.value(text)
					}
					return err
				}
				return d.fault("a value with more than a time and a number")
			})
			if err == nil && n != 2 {
				return d.fault("a value without a number")
			}
			return err
		case "histogram":
			histogram = true
		case "values", "histograms":
			d.matrix = true
		}
		return d.skip(4)
	})
	if err != nil {
		return err
	}
	d.labels.Sort()
	sample.Labels = d.labels.Labels()
	if name, twice := sample.Labels.HasDuplicateLabelNames(); twice {
		return fmt.Errorf("a series has the label %s twice", name)
	}
	hash := sample.Labels.Hash()
	if _, twice := d.seen[hash]; twice {
		return fmt.Errorf("it has the series %s twice", sample.Labels)
	}
	d.seen[hash] = struct{}{}
	switch {
	case histogram:
		d.histogram = sample.Labels.String()
	case !valued && !d.matrix:
		return d.fault("a series without a value")
	}
	d.samples = append(d.samples, sample)
	return nil
}

// metric reads labels. One without a value is as good as none.
func (d *decoder) metric() error {
	n := 0
	return d.object(func(name string) error {
		value, err := d.string()
		if err != nil {
			return err
		}
		if n++; n > maxLabels {
			return d.fault("a series with more than %d labels", maxLabels)
		}
		if !model.UTF8Validation.IsValidLabelName(name) {
			return d.fault("%q is not a label name", brief(name))
		}
		if value != "" {
			d.labels.Add(name, value)
		}
		return nil
	})
}

// brief shortens what others wrote, for an error's text.
func brief(text string) string {
	const limit = 200
	text = strings.Join(strings.Fields(text), " ")
	r := []rune(text)
	if len(r) <= limit {
		return text
	}
	return string(r[:limit]) + "..."
}
