package batchproxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeDevice is a transport to a server of version 1 that takes b + a·n for n rows, and twice that for the first two of a size.
type fakeDevice struct {
	b, a    time.Duration
	most    int // rows; more are refused
	code    int // of the refusal
	said    string
	seen    map[int]int
	pauseAt int // the batch that takes a second more, 0 for none
	batches int
}

func (d *fakeDevice) RoundTrip(r *http.Request) (*http.Response, error) {
	var body struct{ Instances []json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, err
	}
	answer := func(code int, text string) (*http.Response, error) {
		return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}, nil
	}
	n := len(body.Instances)
	if d.most > 0 && n > d.most {
		return answer(d.code, d.said)
	}
	took := d.b + time.Duration(n)*d.a
	if d.seen == nil {
		d.seen = make(map[int]int)
	}
	if d.seen[n]++; d.seen[n] <= warmUpBatches {
		took *= 2
	}
	if d.batches++; d.batches == d.pauseAt {
		took += time.Second
	}
	select {
	case <-time.After(took):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return answer(200, `{"predictions":[]}`)
}

func TestCalibrate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		device  fakeDevice
		sizes   []int
		body    string
		want    []int // sizes
		refused int
		pays    bool
		most    int
		b, a    float64 // seconds
	}{
		{name: "accelerator", device: fakeDevice{b: 8 * time.Millisecond, a: 250 * time.Microsecond, pauseAt: 40}, want: []int{1, 2, 4, 8, 16, 32, 64}, pays: true, most: 64, b: .008, a: .00025},
		{name: "nothing to gain", device: fakeDevice{a: 2 * time.Millisecond}, want: []int{1, 2, 4, 8, 16, 32, 64}, most: 1, a: .002},
		{
			name: "a limit", device: fakeDevice{b: 8 * time.Millisecond, a: 250 * time.Microsecond, most: 20, code: 413, said: "{\"error\":\"no\"}"},
			want: []int{1, 2, 4, 8, 16}, refused: 32, pays: true, most: 16, b: .008, a: .00025,
		},
		{
			name: "a limit in words", device: fakeDevice{b: 8 * time.Millisecond, a: 250 * time.Microsecond, most: 8, code: 400, said: "batch-size must be <= 8"},
			want: []int{1, 2, 4, 8}, refused: 16, pays: true, most: 8, b: .008, a: .00025,
		},
		{
			name: "three rows a request", device: fakeDevice{b: 8 * time.Millisecond, a: 250 * time.Microsecond}, sizes: []int{1, 2, 8, 32}, body: `{"instances":[1,2,3]}`,
			want: []int{3, 6, 30}, pays: true, most: 30, b: .008, a: .00025,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := DefaultCalibrateOptions()
				opts.URL, opts.Model, opts.Protocol, opts.Request, opts.Transport = "http://replica", "m", "v1", []byte(`{"instances":[7]}`), &tt.device
				if tt.sizes != nil {
					opts.Sizes, opts.Request = tt.sizes, []byte(tt.body)
				}
				got, err := Calibrate(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				var sizes []int
				for _, p := range got.Sizes {
					sizes = append(sizes, p.Size)
				}
				if diff := cmp.Diff(tt.want, sizes); diff != "" {
					t.Errorf("sizes: %s", diff)
				}
				if math.Abs(got.Intercept-tt.b) > 1e-6 || math.Abs(got.Slope-tt.a) > 1e-7 || got.Error > 1e-6 {
					t.Errorf("b %v, a %v, error %v; want b %v, a %v", got.Intercept, got.Slope, got.Error, tt.b, tt.a)
				}
				if got.Refused != tt.refused || got.Pays != tt.pays || got.MaxSize != tt.most {
					t.Errorf("refused %d, pays %v, max_size %d; want %d, %v, %d", got.Refused, got.Pays, got.MaxSize, tt.refused, tt.pays, tt.most)
				}
				if want := float64(tt.most) / (tt.b + tt.a*float64(tt.most)); math.Abs(got.Capacity-want) > .01*want {
					t.Errorf("capacity %v, want %v", got.Capacity, want)
				}
			})
		})
	}
}

// TestCalibrateEnds sees that a slow server is not measured for longer than was asked for, three rounds apart.
func TestCalibrateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := DefaultCalibrateOptions()
		opts.URL, opts.Model, opts.Protocol, opts.Request, opts.Transport = "http://replica", "m", "v1", []byte(`{"instances":[7]}`), &fakeDevice{b: time.Second}
		opts.Sizes, opts.MaxDuration = []int{1, 2}, time.Second
		steps := 0
		opts.Progress = func(CalibrateStep) { steps++ }
		if _, err := Calibrate(t.Context(), opts); err != nil {
			t.Fatal(err)
		}
		if want := 2 * (warmUpBatches + fewestRounds); steps != want {
			t.Errorf("%d batches, want %d", steps, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		if _, err := Calibrate(ctx, opts); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("interrupted: %v", err)
		}
		opts.Timeout = 900 * time.Millisecond
		if _, err := Calibrate(t.Context(), opts); err == nil || err.Error() != "a batch of 1 rows was not answered within 900ms" {
			t.Errorf("too slow: %v", err)
		}
	})
}

func TestCalibrateFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(o *CalibrateOptions)
		want   string
	}{
		{"url", func(o *CalibrateOptions) { o.URL = "replica:1" }, `url: "replica:1" is not the URL of a replica: it must begin with http:// or https://`},
		{"protocol", func(o *CalibrateOptions) { o.Protocol = "grpc" }, `protocol: "grpc" is not one whose requests are batched: give v1, oip or openai`},
		{"request", func(o *CalibrateOptions) { o.Request = []byte("{}") }, "request: instances: missing: give an array with one element per instance"},
		{"size", func(o *CalibrateOptions) { o.Sizes = []int{0, 1} }, "sizes: 0 is not a number of rows: give 1 or more"},
		{"sizes", func(o *CalibrateOptions) { o.Sizes = []int{4} }, "sizes: a slope takes two or more, and with 1 rows in the request there is 1: give larger ones"},
		{"refused at once", func(o *CalibrateOptions) {
			o.Sizes, o.Transport = []int{2, 4}, &fakeDevice{most: 1, code: 413, said: "no"}
		}, "a batch of 2 rows is too large: the server answered 413: no"},
		{"an error of another kind", func(o *CalibrateOptions) { o.Transport = &fakeDevice{most: 1, code: 500, said: "broken"} }, "a batch of 2 rows: the server answered 500: broken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := DefaultCalibrateOptions()
			opts.URL, opts.Model, opts.Protocol, opts.Request, opts.Transport = "http://replica", "m", "v1", []byte(`{"instances":[7]}`), &fakeDevice{}
			tt.change(&opts)
			if _, err := Calibrate(t.Context(), opts); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestCalibrationText(t *testing.T) {
	c := &Calibration{
		Model: "m", Protocol: "v1", Sizes: []CalibrationPoint{{1, 15, .00825, .00825, 121.2, 1}, {8, 15, .010, .010, 800, 6.6}},
		Intercept: .008, Slope: .00025, Refused: 16, Refusal: "too many", Pays: true, MaxSize: 8, Capacity: 800, TargetPerReplica: 560,
	}
	var out strings.Builder
	if err := c.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	want := `m (v1)

  rows  batches       median       fitted       rows/s    gain
     1       15     8.250 ms     8.250 ms        121.2   1.00x █████
     8       15    10.000 ms    10.000 ms        800.0   6.60x ██████████████████████████████

S(n) = 8.000 ms + n * 0.250 ms, 0.0 % off on average
16 rows were refused as too large: too many
Batching pays: batch: {max_size: 8}
A replica does 800.0 rows/s in batches of 8; for a signal in rows/s, target_per_replica: 560 leaves it 30 % idle
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestCalibrateInBinary: a server is sent tensors as the proxy would send them.
func TestCalibrateInBinary(t *testing.T) {
	for _, tt := range []struct {
		metadata, set string
		want          bool
	}{
		{knowsBinary, "", true}, {knowsBinary, binaryAuto, true}, {knowsBinary, binaryNever, false}, {"", binaryAuto, false}, {"", binaryAlways, true},
	} {
		s := newTensorServer(t, tt.metadata)
		opts := DefaultCalibrateOptions()
		opts.URL, opts.Model, opts.Request, opts.BinaryTensors = s.URL, "m", []byte(vector("FP32", "0.5", 1, "")), tt.set
		opts.Sizes, opts.Rounds = []int{1, 2}, fewestRounds
		found, err := Calibrate(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		form := map[bool]string{true: "b", false: "j"}
		if got := s.forms(); found.Binary != tt.want || strings.Contains(got, form[!tt.want]) || !strings.Contains(got, form[tt.want]) {
			t.Errorf("%+v: %t, %s", tt, found.Binary, got)
		}
		var text strings.Builder
		if err := found.WriteText(&text); err != nil || strings.Contains(text.String(), "in binary") != tt.want {
			t.Errorf("%v %s", err, &text)
		}
	}
}
