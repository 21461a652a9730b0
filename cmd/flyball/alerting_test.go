//go:build linux

package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flyball/rules/peertest"
)

// TestAlerting: an alert beside a scale rule, and one on the scale rule's own series, reach people by a real Alertmanager;
// what a killed flyball has left there ends by itself.
func TestAlerting(t *testing.T) {
	t.Parallel() // most of its time it waits
	type alert struct {
		Status, GeneratorURL string
		Labels               map[string]string
	}
	var (
		mu   sync.Mutex // guards seen
		seen []alert
	)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var message struct{ Alerts []alert }
		if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
			t.Errorf("webhook: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, message.Alerts...)
	}))
	defer hook.Close()
	told := func(name, status string) *alert {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range seen {
			if a.Labels["alertname"] == name && a.Status == status {
				return &a
			}
		}
		return nil
	}
	am := peertest.Alertmanager(t, "route: {receiver: hook, group_by: [alertname], group_wait: 100ms, group_interval: 500ms}\n"+
		"receivers: [{name: hook, webhook_configs: [{url: '"+hook.URL+"'}]}]\n")
	i := newInstance(t,
		"storage:\n", "alerting: {alertmanagers: [{static_configs: [{targets: ['"+am.Address+"']}]}]}\nstorage:\n",
		"  evaluation_interval: 1s", "  evaluation_interval: 1s\n  external_labels: {cluster: east}",
		"  - alert: DigitsOverloaded", "  - alert: Started\n    expr: time() - process_start_time_seconds{job=\"flyball\"} < 15\n"+
			"  - alert: Served\n    expr: flyball_scale_desired_replicas{rule=\"digits\"} > 0\n    labels: {severity: info}\n"+
			"  - alert: DigitsOverloaded")
	i.start()
	i.eventually(30*time.Second, "both alerts are told", func() bool { return told("Started", "firing") != nil && told("Served", "firing") != nil })
	served := told("Served", "firing")
	if served.Labels["cluster"] != "east" || served.Labels["severity"] != "info" || served.Labels["target"] != "process/digits" {
		t.Errorf("labels %v", served.Labels)
	}
	if want := "http://" + i.web + "/graph?g0.expr=flyball_scale_desired_replicas"; !strings.HasPrefix(served.GeneratorURL, want) {
		t.Errorf("it links to %s, want %s...", served.GeneratorURL, want)
	}
	i.eventually(time.Minute, "the end of one is told", func() bool { return told("Started", "resolved") != nil })
	if told("Served", "resolved") != nil {
		t.Error("the other one has ended too")
	}
	if n := metric(i.web, "flyball_notifications_sent_total", am.Address); n < 3 {
		t.Errorf("%g alerts sent", n)
	}

	i.stop(syscall.SIGKILL)
	response, err := http.Get(am.URL + "/api/v2/alerts?filter=alertname=Served")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var left []struct{ EndsAt, UpdatedAt time.Time }
	if err := json.NewDecoder(response.Body).Decode(&left); err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Fatalf("%d alerts left behind, want 1", len(left))
	}
	if ends := left[0].EndsAt.Sub(left[0].UpdatedAt); ends > 4*time.Minute || ends < 4*time.Minute-10*time.Second {
		t.Errorf("it ends by itself after %s, want four minutes, less the time that it took", ends)
	}
}

// TestExampleAlerting holds the example to its word: it is accepted, and each of its alerts has what the routes go by.
func TestExampleAlerting(t *testing.T) {
	l, err := load("../../examples/alertmanager/flyball.yml")
	if err != nil {
		t.Fatal(err)
	}
	if l.alerting.Len() != 1 {
		t.Errorf("%d configurations of Alertmanagers", l.alerting.Len())
	}
	for _, g := range l.rules[0].Groups {
		for _, r := range g.Rules {
			if r.Alert == nil {
				continue
			}
			if a := r.Alert; a.Labels["severity"] == "" || g.Labels["team"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
				t.Errorf("%s lacks a severity, a team, a summary or a description", a.Name)
			}
		}
	}
}
