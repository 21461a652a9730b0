package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// TestForecastQuery has series asked of a Prometheus: in parts where it would not answer all at once, on the step, with
// gaps where it has nothing.
func TestForecastQuery(t *testing.T) {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		at := func(name string) float64 {
			v, err := strconv.ParseFloat(r.Form.Get(name), 64)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return v
		}
		start, end, step := at("start"), at("end"), at("step")
		if n := (end - start) / step; n >= 11_000 {
			t.Errorf("a request for %g points", n)
		}
		switch q := r.Form.Get("query"); q {
		case "nothing":
			fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
			return
		case "wrong(":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"status":"error","errorType":"bad_data","error":"parse error"}`)
			return
		case "sum(demand)":
		default:
			t.Errorf("query %q", q)
		}
		var values []string
		for s := start; s <= end; s += step {
			if int(s/step)%7 == 3 {
				continue // nothing there
			}
			values = append(values, fmt.Sprintf(`[%.0f,"%d"]`, s, int(s/step)%4))
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"model":"chat"},"values":[%s]}]}}`, strings.Join(values, ","))
	}))
	defer server.Close()

	ask := func(args ...string) (string, string, int) {
		var stdout, stderr bytes.Buffer
		code := execute(t.Context(), append([]string{"forecast", "show", "--url=" + server.URL}, args...), &stdout, &stderr)
		return stdout.String(), stderr.String(), code
	}
	out, said, code := ask("--query=sum(demand)", "--range=20d", "--step=1m", "--seasons=4m", "-o", "json", "--horizon=4")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, said)
	}
	if requests != 3 {
		t.Errorf("%d requests for 28,801 points, want 3", requests)
	}
	var answer struct {
		Series []struct {
			Series      string
			StepSeconds float64 `json:"step_seconds"`
			Points      []struct{ Mean float64 }
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Series) != 1 || answer.Series[0].Series != `{model="chat"}` || answer.Series[0].StepSeconds != 60 {
		t.Fatalf("the answer is %+v", answer)
	}
	sum := 0.0
	for _, p := range answer.Series[0].Points {
		sum += p.Mean
	}
	if math.Abs(sum-(0+1+2+3)) > 1e-9 {
		t.Errorf("four steps of a season of 0, 1, 2, 3 come to %v", sum)
	}

	if _, said, code := ask("--query=nothing"); code != exitFailed || said != "flyball: --query: the answer has no series\n" {
		t.Errorf("exit %d: %s", code, said)
	}
	if _, said, code := ask("--query=wrong("); code != exitFailed || !strings.Contains(said, "parse error") {
		t.Errorf("exit %d: %s", code, said)
	}
	if _, said, code := ask("--query=up", "--range=3y", "--step=1s"); code != exitFailed || !strings.Contains(said, "are more than 1000000") {
		t.Errorf("exit %d: %s", code, said)
	}
}
