package loadgen

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serverFunc is a server in memory: it answers the body of a request.
type serverFunc func(ctx context.Context, body []byte) (status int, answer []byte, err error)

// RoundTrip implements http.RoundTripper.
func (f serverFunc) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if int64(len(body)) != r.ContentLength {
		return nil, fmt.Errorf("body has %d bytes, announced were %d", len(body), r.ContentLength)
	}
	status, answer, err := f(r.Context(), body)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: status,
		Body:       io.NopCloser(strings.NewReader(string(answer))),
		Request:    r,
	}, nil
}

// question is what the test model is asked.
type question struct {
	ID     string `json:"id"`
	Inputs []struct {
		Name  string    `json:"name"`
		Shape []int     `json:"shape"`
		Data  []float64 `json:"data"`
	} `json:"inputs"`
	Instances [][]float64 `json:"instances"`
}

// sum is the test model: it answers with the sum of its inputs.
func sum(body []byte) ([]byte, error) {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, err
	}
	total := 0.0
	if q.Instances != nil {
		for _, v := range q.Instances[0] {
			total += v
		}
		return fmt.Appendf(nil, `{"predictions":[%v]}`, total), nil
	}
	for _, v := range q.Inputs[0].Data {
		total += v
	}
	return sumAnswer(q.ID, total), nil
}

func sumAnswer(id string, total float64) []byte {
	return fmt.Appendf(nil, `{"model_name":"sum","id":%q,"outputs":[{"name":"sum","datatype":"FP32","shape":[1,1],"data":[%v]}]}`, id, total)
}

// answersAfter is the test model as a server that takes a time for each request.
func answersAfter(d time.Duration) serverFunc {
	return func(ctx context.Context, body []byte) (int, []byte, error) {
		if err := sleep(ctx, d); err != nil {
			return 0, nil, err
		}
		answer, err := sum(body)
		return http.StatusOK, answer, err
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sumRequests are n requests with different right answers, which are known.
func sumRequests(tb testing.TB, n int, protocol Protocol) []Request {
	tb.Helper()
	rows := make([][]float32, n)
	for i := range rows {
		rows[i] = []float32{float32(i), 0.5}
	}
	requests, err := TensorRequests("sum", "x", protocol, rows)
	if err != nil {
		tb.Fatal(err)
	}
	requests, err = Reference(tb.Context(), Options{
		URL: "http://server.test", Requests: requests, Timeout: time.Second, Transport: answersAfter(0),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return requests
}

// testOptions ask transport evenly spaced: rate requests per second for d.
func testOptions(tb testing.TB, transport http.RoundTripper, rate float64, d time.Duration) Options {
	o := DefaultOptions()
	o.URL = "http://server.test"
	o.Demand = Constant(rate, d)
	o.Arrivals = Uniform
	o.RunID = "test"
	o.Transport = transport
	o.Requests = sumRequests(tb, 7, V2)
	return o
}

func mustRun(tb testing.TB, ctx context.Context, o Options) Report {
	tb.Helper()
	report, err := Run(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	if got := report.Counts.Total(); got != report.Offered {
		tb.Errorf("counts add up to %d, %d were offered", got, report.Offered)
	}
	return report
}
