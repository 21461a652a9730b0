package rules

import (
	"testing"

	"flyball/actuators"
)

// TestUnarmed: a forecast that is no better than the last value asks for nothing, says so, and keeps nothing from going down.
func TestUnarmed(t *testing.T) {
	r := &Reader{Defaults: testDefaults}
	f, err := r.Parse("rules.yml", []byte(`groups:
- name: a
  rules:
  - scale: digits
    target: {kind: process, name: digits}
    max: 100
    queries: {a: a}
    behavior: {up: {policies: []}, down: {window: 0s, policies: []}}
    signals:
    - {name: load, value: a, target_per_replica: 10}
    - {name: ahead, forecast: f, target_per_replica: 10, role: floor}
`))
	if err != nil {
		t.Fatal(err)
	}
	rule := f.Groups[0].Rules[0].Scale
	stale := named("f@armed", 0)
	stale.Fault = MetricStale
	for _, tt := range []struct {
		name   string
		armed  Answer
		skill  Answer
		want   string
		reason Reason
	}{
		{"armed", named("f@armed", 1), named("f@skill", 0.3), "5 -> 8 Forecast: ahead 80 at 10 a replica needs 8", AboveTarget},
		{"not armed", named("f@armed", 0), named("f@skill", -0.12), "5 -> 2 BelowTarget: load 20 at 10 a replica needs 2, forecast f is not armed: its error is 1.12 times that of the last value", LowConfidence},
		{"not known yet", named("f@armed", 0), missing("f@skill"), "5 -> 2 BelowTarget: load 20 at 10 a replica needs 2, forecast f is not armed: too few of its forecasts have been compared with what came", LowConfidence},
		{"written by something else", missing("f@armed"), missing("f@skill"), "5 -> 8 Forecast: ahead 80 at 10 a replica needs 8", AboveTarget},
		{"said too long ago", stale, missing("f@skill"), "5 -> 8 Forecast: ahead 80 at 10 a replica needs 8", AboveTarget},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.armed.Optional, tt.skill.Optional = true, true
			d, _ := Decide(rule, Observation{
				At: noon, Replicas: actuators.State{Spec: 5, Ready: 5},
				Answers: []Answer{named("a", 20), named("f@0.9", 80), tt.armed, tt.skill},
			}, State{})
			if got := story(d); got != tt.want {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
			s := d.Signals[1]
			if s.Reason != tt.reason || *s.Value != 80 {
				t.Errorf("signal %+v", s)
			}
		})
	}
}

// TestForecastQuantiles: a quantile that the forecast does not give is a fault, whichever of them is read first.
func TestForecastQuantiles(t *testing.T) {
	const ahead = "groups:\n- name: f\n  rules:\n  - {forecast: ahead, query: demand, levels: [0.5, 0.99]}\n"
	const scale = "groups:\n- name: s\n  rules:\n  - scale: s\n    target: {kind: process, name: s}\n    max: 3\n    signals: [{name: a, forecast: ahead, target_per_replica: 1}]\n"
	const want = `
scale.yml:7:35: quantile is 0.9: forecast ahead gives the levels 0.5, 0.99
    7 |     signals: [{name: a, forecast: ahead, target_per_replica: 1}]
      |                                   ^
1 error in 1 file`
	for _, order := range [][2]string{{"ahead.yml", "scale.yml"}, {"scale.yml", "ahead.yml"}} {
		r := &Reader{Defaults: testDefaults}
		var err error
		for _, name := range order {
			text := map[string]string{"ahead.yml": ahead, "scale.yml": scale}[name]
			if _, parsed := r.Parse(name, []byte(text)); parsed != nil {
				err = parsed
			}
		}
		if err == nil {
			err = r.Finish()
		}
		if err == nil || "\n"+err.Error() != want {
			t.Errorf("%v: got\n%v", order, err)
		}
	}
}
