package rulestest

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/rules/source"
)

// notation parses series and their values with all that promtool's notation has, promQL what rules may use.
var (
	notation = parser.NewParser(parser.Options{
		EnableExperimentalFunctions: true, ExperimentalDurationExpr: true, EnableExtendedRangeSelectors: true, EnableBinopFillModifiers: true,
	})
	promQL = parser.NewParser(parser.Options{})
)

// maxSamples bounds the samples of a test, at 80 bytes each: 1x1000000000 is twelve bytes of a file.
const maxSamples = 5_000_000

// input are the samples of the input series in the order of their times.
type input struct {
	samples []Sample
	next    int // the first that has not been taken
}

// parseInput parses the input series. Of two with the same labels the later counts, as in promtool.
func (t *Test) parseInput(d *source.Decoder, path string) *input {
	byLabels := map[string][]Sample{}
	var order []string
	n := 0
	for i, s := range t.InputSeries {
		at := fmt.Sprintf("%s.input_series[%d]", path, i)
		values := strings.TrimSpace(s.Values)
		if strings.ContainsAny(values, "\n") {
			d.FaultAt(at+".values", 0, "values: more than one line: fold it with >-")
			continue
		}
		if repeats(values) > maxSamples {
			d.FaultAt(at+".values", 0, "values: more than %d: no test needs that many", maxSamples)
			continue
		}
		ls, sequence, err := notation.ParseSeriesDesc(strings.TrimSpace(s.Series) + " " + values)
		if err != nil {
			t.seriesFault(d, at, len(strings.TrimSpace(s.Series))+1, err)
			continue
		}
		if n += len(sequence); n > maxSamples {
			d.FaultAt(at+".values", 0, "the series of the test have more than %d values", maxSamples)
			break
		}
		key := string(ls.Bytes(nil))
		if _, there := byLabels[key]; !there {
			order = append(order, key)
		}
		samples := make([]Sample, 0, len(sequence))
		for j, v := range sequence {
			if !v.Omitted {
				samples = append(samples, Sample{ls, t.start().Add(time.Duration(j) * time.Duration(t.Interval)), v.Value, v.Histogram})
			}
		}
		byLabels[key] = samples
	}
	in := &input{}
	for _, key := range order {
		in.samples = append(in.samples, byLabels[key]...)
	}
	slices.SortStableFunc(in.samples, func(a, b Sample) int { return a.Time.Compare(b.Time) })
	return in
}

// repetition is how often a value is repeated, as in 1+1x20.
var repetition = regexp.MustCompile(`x(\d+)`)

// repeats is how many values the notation stands for at least, told before they are made.
func repeats(values string) (n float64) {
	for _, m := range repetition.FindAllStringSubmatch(values, -1) {
		times, err := strconv.ParseFloat(m[1], 64)
		if err == nil {
			n += times
		}
	}
	return n
}

// seriesFault notes a fault in a series or its values, which were parsed as one text.
func (t *Test) seriesFault(d *source.Decoder, path string, values int, err error) {
	message, offset := parseError(err)
	if offset >= values {
		d.FaultAt(path+".values", offset-values, "values: %s", message)
		return
	}
	d.FaultAt(path+".series", offset, "series: %s", message)
}

// parseError is what PromQL's parser says, and at which byte.
func parseError(err error) (message string, offset int) {
	//nolint:errorlint // the parser returns these very types, never wrapped
	switch e := err.(type) {
	case parser.ParseErrors:
		return e[0].Err.Error(), int(e[0].PositionRange.Start)
	case *parser.ParseErr:
		return e.Err.Error(), int(e.PositionRange.Start)
	}
	return err.Error(), 0
}

// till takes the samples up to a time.
func (in *input) till(at time.Time) []Sample {
	from := in.next
	for in.next < len(in.samples) && !in.samples[in.next].Time.After(at) {
		in.next++
	}
	return in.samples[from:in.next]
}

// end is the time of the last sample, or the start of the test where there is none.
func (in *input) end(start time.Time) time.Time {
	if n := len(in.samples); n > 0 {
		return in.samples[n-1].Time
	}
	return start
}

// parseHistogram parses a native histogram in promtool's notation.
func parseHistogram(text string) (*histogram.FloatHistogram, error) {
	_, values, err := promQL.ParseSeriesDesc("{} " + text)
	switch {
	case err != nil:
		message, _ := parseError(err)
		return nil, fmt.Errorf("histogram: %s", message)
	case len(values) != 1 || values[0].Histogram == nil:
		return nil, fmt.Errorf("histogram: %q is not one native histogram", text)
	}
	return values[0].Histogram, nil
}
