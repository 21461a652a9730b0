package main

import (
	"strings"
	"testing"
)

// TestReloadElection: a process has one election for its life.
func TestReloadElection(t *testing.T) {
	const quiet = "exporter: {collectors: {gpu: false, host: false}}\n"
	w := startWithin(t, map[string]string{"flyball.yml": quiet + "election: {file: leader}\n"}, func(*runOptions) {})
	w.eventually("it acts", func() bool { return w.leads() })
	now := w.live.Load()
	for _, text := range []string{quiet + "election: {file: another}\n", quiet} {
		w.write(map[string]string{"flyball.yml": text})
		const want = "election is another in the process that runs: to change it takes a restart"
		if err := w.reload(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if w.live.Load() != now {
		t.Error("it was taken over")
	}
	w.write(map[string]string{"flyball.yml": quiet + "global: {evaluation_interval: 7s}\nelection: {file: ./leader}\n"})
	if err := w.reload(t.Context()); err != nil {
		t.Error(err)
	}
}
