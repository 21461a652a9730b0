// Package alertmanager tests the example configuration with Alertmanager's own tools.
package alertmanager

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"flyball/rules/peertest"
)

func TestConfig(t *testing.T) {
	out, err := exec.Command(peertest.Binary(t, "amtool"), "check-config", "alertmanager.yml").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "SUCCESS") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRoutes says who hears of what.
func TestRoutes(t *testing.T) {
	amtool := peertest.Binary(t, "amtool")
	for _, tt := range []struct{ labels, receivers string }{
		{"alertname=ModelRefusesRequests severity=critical team=serving model=digits cluster=east", "pager-serving"},
		{"alertname=ModelRefusesRequests severity=warning team=serving model=digits cluster=east", "serving"},
		{"alertname=TargetAtMaximum severity=info team=serving target=process/digits", "low-noise"},
		{"alertname=TargetsDown severity=critical team=platform job=node", "pager-platform"},
		{"alertname=AlertsDoNotArrive severity=warning team=platform", "platform"},
		{"alertname=ReplicasCostly severity=warning team=serving category=cost", "finance"},
		{"alertname=ReplicasCostly severity=info team=serving category=cost", "finance"},
		{"alertname=BudgetRunsOut severity=critical team=serving category=cost", "finance,pager-serving"},
		{"alertname=BudgetRunsOut severity=critical team=platform category=cost", "finance,pager-platform"},
		{"alertname=Other severity=critical", "pager-serving"},
		{"alertname=Other severity=critical team=research", "pager-serving"},
		{"alertname=Other severity=warning team=research", "models"},
		{"alertname=Other severity=info team=platform", "low-noise"},
		{"alertname=Other", "models"},
	} {
		args := append([]string{"config", "routes", "test", "--config.file=alertmanager.yml"}, strings.Fields(tt.labels)...)
		out, err := exec.Command(amtool, args...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.receivers {
			t.Errorf("%s: %s (%v), want %s", tt.labels, got, err, tt.receivers)
		}
	}
}

// TestInhibition has a real Alertmanager with the example's configuration tell which alerts it keeps to itself.
func TestInhibition(t *testing.T) {
	config, err := os.ReadFile("alertmanager.yml")
	if err != nil {
		t.Fatal(err)
	}
	am := peertest.Alertmanager(t, string(config))
	type labels map[string]string
	var alerts []any
	for _, ls := range []labels{
		{"severity": "critical", "model": "a", "cluster": "east"},
		{"severity": "warning", "model": "a", "cluster": "east"},
		{"severity": "warning", "model": "b", "cluster": "east"},
		{"severity": "warning", "model": "a", "cluster": "west"},
		{"severity": "info", "model": "a", "cluster": "east"},
	} {
		ls["alertname"] = "ModelRefusesRequests"
		alerts = append(alerts, map[string]any{"labels": ls, "endsAt": time.Now().Add(time.Hour)})
	}
	body, err := json.Marshal(alerts)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(am.URL+"/api/v2/alerts", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	inhibited := func() (all int, found []string) {
		response, err := http.Get(am.URL + "/api/v2/alerts")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var list []struct {
			Labels labels
			Status struct{ InhibitedBy []string }
		}
		if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if len(a.Status.InhibitedBy) > 0 {
				found = append(found, a.Labels["severity"]+" "+a.Labels["model"]+" "+a.Labels["cluster"])
			}
		}
		return len(list), found
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		all, found := inhibited()
		if all == len(alerts) && len(found) == 1 && found[0] == "warning a east" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("of %d alerts it keeps %q to itself, want the warning of the model that is critical", all, found)
		}
	}
}
