package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
	"flyball/actuators/keda"
	"flyball/rules"
)

// seven is a Querier whose answer to all is 70, of now.
type seven struct{}

func (seven) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]rules.Sample, error) {
	if strings.Contains(expr, "timestamp(") {
		return []rules.Sample{{Value: float64(at.Unix()), Time: at}}, nil
	}
	return []rules.Sample{{Value: 70, Time: at}}, nil
}

// notebook is a Journal that keeps nothing.
type notebook struct{ err error }

func (n *notebook) Append(*rules.Decision) error { return n.err }

const kedaRulesFile = `
groups:
- name: a
  rules:
  - scale: llama
    target: {kind: keda, name: llama}
    mode: act
    min: 2
    max: 20
    queries: {d: demand}
    signals: [{name: s, value: d, target_per_replica: 10}]
    behavior: {up: {policies: []}}
  - scale: mixed
    variants:
    - {name: spot, target: {kind: keda, name: spot}, price: "1", capacity: 1, max: 3}
    - {name: own, target: {kind: keda, name: own}, price: "2", capacity: 1, max: 9}
    mode: act
    queries: {d: demand}
    signals: [{name: s, value: d, target_per_replica: 10}]
    behavior: {up: {policies: []}}
`

// TestKedaSizes: a decision is told for three intervals, that of a size that was not carried out never.
func TestKedaSizes(t *testing.T) {
	for _, tt := range []struct {
		name         string
		rule, target string
		evaluated    []time.Duration // ago
		observes     bool
		starting     bool
		frozen       bool // at the end
		journal      error
		down         error // of the target, at the last evaluation
		want         int
		fails        string
	}{
		{name: "decided", rule: "llama", evaluated: []time.Duration{0}, want: 7},
		{name: "by the target's name", rule: "llama", target: "llama", evaluated: []time.Duration{0}, want: 7},
		{name: "two intervals ago", rule: "llama", evaluated: []time.Duration{30 * time.Second}, want: 7},
		{name: "four intervals ago", rule: "llama", evaluated: []time.Duration{time.Minute}, fails: "it was last evaluated 1m0s ago"},
		{name: "never", rule: "llama", fails: "it has not been evaluated since flyball started"},
		{name: "flyball is starting", rule: "llama", starting: true, fails: "flyball is starting"},
		{name: "it observes", rule: "llama", evaluated: []time.Duration{0}, observes: true, fails: "it only observes"},
		{name: "frozen", rule: "llama", evaluated: []time.Duration{0}, frozen: true, fails: "acting is frozen by me"},
		{name: "not in the journal, so not carried out", rule: "llama", evaluated: []time.Duration{0}, journal: errors.New("disk full"), want: 1},
		{name: "blind for a moment", rule: "llama", evaluated: []time.Duration{20 * time.Second, 0}, down: errors.New("gone"), want: 7},
		{name: "blind for long", rule: "llama", evaluated: []time.Duration{50 * time.Second, 0}, down: errors.New("gone"), fails: "it has held for 50s: the target cannot be observed"},
		{name: "blind from the start", rule: "llama", evaluated: []time.Duration{0}, down: errors.New("gone"), fails: "it holds since flyball started"},
		{name: "the cheaper variant", rule: "mixed", target: "spot", evaluated: []time.Duration{0}, want: 3},
		{name: "the other one", rule: "mixed", target: "own", evaluated: []time.Duration{0}, want: 4},
		{name: "which variant", rule: "mixed", evaluated: []time.Duration{0}, fails: "rule mixed has 2 targets: the metadata's `target` is to name one of spot, own: invalid metadata"},
		{name: "no such rule", rule: "mixd", fails: `no scale rule "mixd" (did you mean "mixed"?): not found`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, err := newRuleReader(rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 15 * time.Second}).Parse("rules.yml", []byte(kedaRulesFile))
			if err != nil {
				t.Fatal(err)
			}
			a := &app{opts: &runOptions{}, brake: rules.OpenBrake(filepath.Join(t.TempDir(), "freeze.json"))}
			a.keda = keda.NewServer(nil, keda.Options{})
			a.kedaSizes = &kedaSizes{app: a, whole: map[string]time.Time{}}
			target := &actuatortest.Fake{}
			for _, name := range []string{"llama", "own"} {
				target.Resize(actuators.Target{Kind: keda.Kind, Name: name}, 1)
			}
			journal, memory := &notebook{tt.journal}, &rules.Memory{}
			l := &live{loaded: &loaded{}}
			metrics := rules.NewMetrics(prometheus.NewRegistry())
			for i := range file.Groups[0].Rules {
				s := rules.NewScaler(file.Groups[0].Rules[i].Scale, rules.ScalerOptions{
					Querier: seven{}, Actuators: map[string]actuators.Actuator{keda.Kind: target}, Journal: journal, Metrics: metrics,
					Memory: memory, Acting: !tt.observes, Brake: a.brake, Decided: a.decided,
				})
				l.scalers = append(l.scalers, s)
			}
			a.live.Store(l)
			if !tt.starting {
				a.phase.Store(ready)
			}
			for i, ago := range tt.evaluated {
				if i == len(tt.evaluated)-1 {
					target.FailWith(tt.down)
				}
				for _, s := range l.scalers {
					_, _ = s.Eval(t.Context(), time.Now().Add(-ago))
				}
			}
			if tt.frozen {
				if err := a.brake.Freeze("me", ""); err != nil {
					t.Fatal(err)
				}
			}
			got, err := a.kedaSizes.Desired(tt.rule, tt.target)
			switch {
			case tt.fails != "":
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("%d, error %v, want %q", got, err, tt.fails)
				}
			case err != nil || got != tt.want:
				t.Errorf("%d, error %v, want %d", got, err, tt.want)
			}
		})
	}
}
