//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// empty are the queries of the mixin's dashboards that have no series on a machine like this, and why.
var empty = map[string]string{
	`variable "cluster"`:               "one cluster: nothing has the label; the variable is hidden and stands for .*",
	`annotation "Firing alerts"`:       "nothing is wrong, so no alert fires",
	`panel "Anomalies", query A`:       "the quickstart looks for no anomalies",
	`panel "GPU utilisation", query A`: "no GPU",
	`panel "GPU memory", query A`:      "no GPU",
}

// TestDashboards: every query of every panel, variable and annotation of the mixin's dashboards has data in the running
// quickstart, which loads the mixin's rules, under real load.
func TestDashboards(t *testing.T) {
	out, err := filepath.Abs("../../mixin/out")
	if err != nil {
		t.Fatal(err)
	}
	// How good a forecast is it says once ten horizons have been compared: a shorter one does in a minute.
	i := newInstance(t, "../../mixin/out", out, "horizon: 20s", "horizon: 6s")
	i.start()
	url := "http://" + i.web
	var loading sync.WaitGroup
	defer loading.Wait()
	ctx, endLoad := context.WithCancel(t.Context())
	defer endLoad()
	loading.Go(func() { i.load(ctx, "0,60\n4,300\n600,300\n") })
	i.eventually(180*time.Second, "a size is changed", func() bool { return metric(i.web, "flyball_scale_applied_total", `result="applied"`) >= 1 })

	dashboards, err := filepath.Glob(filepath.Join(out, "dashboards", "*.json"))
	if err != nil || len(dashboards) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	args := append([]string{"check", "dashboards", "--against=" + url, "--scrape-interval=1s", "--range=1m", "-o", "json"}, dashboards...)
	var missing map[string]string
	// Rates and the rules that are recorded once a minute take a while to be there.
	for end := time.Now().Add(180 * time.Second); ; time.Sleep(time.Second) {
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(built.path("flyball"), args...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		var report struct {
			Dashboards []struct {
				Queries  int
				Findings []struct{ Rule, Severity, In, Message string }
			}
		}
		if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
			t.Fatalf("%v: %s%s", err, stdout.String(), stderr.String())
		}
		missing = map[string]string{}
		for _, d := range report.Dashboards {
			if d.Queries < 50 {
				t.Fatalf("only %d queries", d.Queries)
			}
			for _, f := range d.Findings {
				if f.Rule == "no-data" {
					missing[f.In] = f.Message
				} else {
					t.Errorf("%s: %s", f.Rule, f.Message)
				}
			}
		}
		unexplained := 0
		for in := range missing {
			if empty[in] == "" {
				unexplained++
			}
		}
		if unexplained == 0 || t.Failed() {
			break
		}
		if time.Now().After(end) {
			for in, message := range missing {
				if empty[in] == "" {
					t.Error(message)
				}
			}
			break
		}
	}
	t.Logf("%d queries without data, each for a reason: %v", len(missing), missing)

	t.Run("the rules cost little", func(t *testing.T) {
		client, err := api.NewClient(api.Config{Address: url})
		if err != nil {
			t.Fatal(err)
		}
		// Half of the evaluations take less than this: the others share the processor with the load and the model servers. It
		// is a few milliseconds where nothing else runs; a quarter of the interval is too much anywhere.
		v, _, _, err := v1.NewAPI(client).Query(t.Context(), `quantile_over_time(0.5, flyball_rule_group_duration_seconds[1m])`, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		groups, each := v.(model.Vector), 0
		for _, s := range groups {
			took := time.Duration(float64(s.Value) * 1e9).Round(10 * time.Microsecond)
			t.Logf("%s: %s", s.Metric["group"], took)
			if took > 250*time.Millisecond {
				t.Errorf("group %s takes %s of each second", s.Metric["group"], took)
			}
			if group := string(s.Metric["group"]); strings.Contains(group, ";flyball-") && !strings.HasSuffix(group, "-slo") {
				each++
			}
		}
		if each != 5 { // the sixth, over hours and days, has an interval of its own, a minute
			t.Errorf("%d groups of the mixin are evaluated each second, expected 5", each)
		}
	})
	t.Run("links of alerts arrive at runbooks", func(t *testing.T) {
		if code := status(url + "/runbooks/FlyballScaleHeld"); code != http.StatusOK {
			t.Errorf("a runbook: %d", code)
		}
		if code := status(url + "/runbooks/None"); code != http.StatusNotFound {
			t.Errorf("no runbook: %d", code)
		}
	})
	t.Run("no alert fires", func(t *testing.T) {
		if n := metric(i.web, "flyball_rule_failures_total"); n > 0 {
			t.Errorf("%g evaluations failed", n)
		}
		client, err := api.NewClient(api.Config{Address: url})
		if err != nil {
			t.Fatal(err)
		}
		v, _, _, err := v1.NewAPI(client).Query(t.Context(), `ALERTS{alertname=~"Flyball.*", alertstate="firing"}`, time.Now())
		if err != nil || len(v.(model.Vector)) > 0 {
			t.Errorf("%v, %v", err, fmt.Sprint(v))
		}
	})
}
