package model

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"flyball/exporter"
)

// longestOf reads a page into r as of a time, and returns what is published of the longest time.
func longestOf(t *testing.T, r *reading, page []byte, contentType string, at time.Time) (series string, field Field) {
	t.Helper()
	if err := r.read(context.Background(), bytes.NewReader(page), contentType, ""); err != nil {
		t.Fatal(err)
	}
	r.now = at
	p := r.finish(newDescs())
	for line := range strings.Lines(seriesOf(page2text(t, p.metrics))) {
		if strings.HasPrefix(line, "flyball_model_request_duration_max_seconds") {
			series += line
		}
	}
	return series, p.fields[fieldIndex(maxField)]
}

// TestLongestNative: of a native histogram the longest time is the bound of the highest bucket that grew within a minute. A first page
// does not say when its requests were, and neither does one of a server that began anew.
func TestLongestNative(t *testing.T) {
	type step struct {
		at      time.Duration
		restart bool
		observe []float64
		want    string // of the value; empty for no series
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"the first page", []step{{0, false, []float64{9}, ""}}},
		{"what grew", []step{{0, false, []float64{100}, ""}, {5 * time.Second, false, []float64{0.9, 0.3}, "0.9170040432046711"}}},
		{"nothing grew", []step{{0, false, []float64{100}, ""}, {5 * time.Second, false, nil, ""}}},
		{"less than any bucket", []step{{0, false, []float64{1}, ""}, {5 * time.Second, false, []float64{0}, "2.938735877055719e-39"}}},
		{"it stays for a minute", []step{
			{0, false, nil, ""},
			{5 * time.Second, false, []float64{8}, "8"},
			{30 * time.Second, false, []float64{1}, "8"},
			{59 * time.Second, false, nil, "8"},
			{60 * time.Second, false, nil, "1"},
			{90 * time.Second, false, nil, ""},
		}},
		{"it begins anew", []step{
			{0, false, []float64{8, 8}, ""},
			{5 * time.Second, false, []float64{2}, "2"},
			{10 * time.Second, true, []float64{4}, "2"},
			{15 * time.Second, false, []float64{1}, "2"},
		}},
		{"longer than any bucket tells", []step{{0, false, []float64{1}, ""}, {time.Second, false, []float64{math.Inf(1)}, ""}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := configOf(t, "http://localhost/metrics")
			r := newReading(&config)
			began := time.Unix(1_700_000_000, 0)
			fresh := func() (*prometheus.Registry, *prometheus.HistogramVec) {
				h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
					Name: "flyball_batchproxy_request_duration_seconds", Help: "h", Buckets: []float64{1}, NativeHistogramBucketFactor: 1.1,
				}, []string{"model", "class"})
				h.WithLabelValues("m", "a")
				registry := prometheus.NewRegistry()
				registry.MustRegister(h)
				return registry, h
			}
			registry, h := fresh()
			for _, s := range tt.steps {
				if s.restart {
					registry, h = fresh()
				}
				for i, took := range s.observe {
					h.WithLabelValues("m", []string{"a", "b"}[i%2]).Observe(took)
				}
				families, err := registry.Gather()
				if err != nil {
					t.Fatal(err)
				}
				var page bytes.Buffer
				format := expfmt.NewFormat(expfmt.TypeProtoDelim)
				encoder := expfmt.NewEncoder(&page, format)
				for _, f := range families {
					if err := encoder.Encode(f); err != nil {
						t.Fatal(err)
					}
				}
				want := ""
				if s.want != "" {
					want = `flyball_model_request_duration_max_seconds{engine="flyball",model="m",server="s"} ` + s.want + "\n"
				}
				got, field := longestOf(t, r, page.Bytes(), string(format), began.Add(s.at))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("after %s (-want +got):\n%s", s.at, diff)
				}
				if field.Mapped != (want != "") {
					t.Errorf("after %s: the field is %+v", s.at, field)
				}
			}
		})
	}
}

// TestLongestElsewhere: the page's own longest time goes before a summary's quantile 1; classic buckets and averages tell none.
func TestLongestElsewhere(t *testing.T) {
	const classic = `# TYPE flyball_batchproxy_request_duration_seconds histogram
flyball_batchproxy_request_duration_seconds_bucket{model="m",le="1"} 3
flyball_batchproxy_request_duration_seconds_bucket{model="m",le="+Inf"} 3
flyball_batchproxy_request_duration_seconds_sum{model="m"} 1
flyball_batchproxy_request_duration_seconds_count{model="m"} 3
`
	const summary = `# TYPE nv_inference_request_summary_us summary
nv_inference_request_summary_us{model="m",version="1",quantile="0.5"} 1000
nv_inference_request_summary_us{model="m",version="1",quantile="1"} 7000
nv_inference_request_summary_us_sum{model="m",version="1"} 9000
nv_inference_request_summary_us_count{model="m",version="1"} 3
`
	for _, tt := range []struct {
		name, page string
		mapping    map[string]exporter.MetricMapping
		want       string
	}{
		{"classic buckets", classic, nil, ""},
		{
			"the proxy's own", classic + "flyball_batchproxy_request_duration_max_seconds{model=\"m\",class=\"a\"} 0.5\nflyball_batchproxy_request_duration_max_seconds{model=\"m\",class=\"b\"} 0.75\n",
			nil, `{engine="flyball",model="m",server="s"} 0.75`,
		},
		{"a summary's quantile 1", summary, nil, `{engine="triton",model="m",server="s",version="1"} 0.007`},
		{"a summary without it", strings.ReplaceAll(summary, `quantile="1"`, `quantile="0.99"`), nil, ""},
		{
			"a mapping before it", summary + "longest_us{model=\"m\",version=\"1\"} 8000\n",
			map[string]exporter.MetricMapping{maxField: {Metric: "longest_us", Scale: 1e-6}},
			`{engine="triton",model="m",server="s",version="1"} 0.008`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := configOf(t, "http://localhost/metrics", func(c *exporter.ModelServer) { c.Mapping = tt.mapping })
			r := newReading(&config)
			want := ""
			if tt.want != "" {
				want = fmt.Sprintf("flyball_model_request_duration_max_seconds%s\n", tt.want)
			}
			for range 2 { // a second reading tells of no more
				got, _ := longestOf(t, r, []byte(tt.page), "text/plain", time.Now())
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}
