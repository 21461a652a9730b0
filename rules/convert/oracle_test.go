package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
	"flyball/rules"
)

// stage is where a rule decides: a target that is as it is told to be at once, and queries that have a value each.
type stage struct {
	at     time.Time
	size   int
	values map[string]float64 // by query
	silent map[string]bool    // queries without an answer
	target actuators.Target
}

func (s *stage) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]rules.Sample, error) {
	if s.silent[expr] {
		return nil, nil
	}
	if v, is := s.values[expr]; is {
		return []rules.Sample{{Value: v}}, nil
	}
	return []rules.Sample{{Value: float64(at.Unix())}}, nil // of data that has just come
}

func (s *stage) Observe(_ context.Context, target actuators.Target) (actuators.State, error) {
	if s.target != target {
		return actuators.State{}, fmt.Errorf("%s: %w", target, actuators.ErrUnknownTarget)
	}
	return actuators.State{Spec: s.size, Ready: s.size, Version: fmt.Sprint(s.size)}, nil
}

func (s *stage) Apply(_ context.Context, target actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	if s.target != target || c.From != s.size {
		return actuators.Receipt{}, errors.New("not what was observed")
	}
	s.size = c.To
	return actuators.Receipt{Spec: c.To, Version: fmt.Sprint(c.To), Changed: true}, nil
}

func (s *stage) Append(*rules.Decision) error { return nil }

// scaler evaluates a rule on the stage, and acts.
func (s *stage) scaler(rule *rules.Scale) *rules.Scaler {
	rule.Mode = rules.Act
	s.target = rule.Target
	return rules.NewScaler(rule, rules.ScalerOptions{
		Querier: s, Actuators: map[string]actuators.Actuator{"kubernetes": s}, Journal: s,
		Metrics: rules.NewMetrics(prometheus.NewRegistry()), Memory: &rules.Memory{}, Acting: true,
	})
}

// read are the scale rules of a file.
func read(t *testing.T, text []byte) (all []*rules.Scale) {
	t.Helper()
	reader := rules.Reader{Defaults: rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 15 * time.Second}}
	f, err := reader.Parse("rules.yml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for i := range f.Groups {
		for _, r := range f.Groups[i].Rules {
			all = append(all, r.Scale)
		}
	}
	return all
}

// TestDecidesAsTheHPA: with the demands of testdata/oracle.json, which has what the HPA's own controller made of them, the
// converted rule comes to the same sizes, each of them, but for what a comment of the rule says differs. oracle/ says how the file is made.
func TestDecidesAsTheHPA(t *testing.T) {
	text, err := os.ReadFile("testdata/oracle.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Seed   uint64
		HPA    json.RawMessage
		Start  int
		Values [][]int64
		Sizes  []int
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	compared, changes, differ := 0, 0, 0
	for _, s := range all {
		r, err := HPA([]Input{{Name: "hpa.json", Text: s.HPA}}, Options{})
		if err != nil {
			t.Fatalf("seed %d: %v", s.Seed, err)
		}
		rule := read(t, r.Text)[0]
		st := &stage{at: time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC), size: s.Start}
		scaler := st.scaler(rule)
		for i, values := range s.Values {
			before := st.size
			st.at = st.at.Add(15 * time.Second)
			st.values = map[string]float64{}
			for j, v := range values {
				name := rule.Signals[j].Name
				st.values[rule.Queries[name].Expr] = observed(name, rule, float64(v), st.size)
			}
			if _, err := scaler.Eval(t.Context(), st.at); err != nil {
				t.Fatal(err)
			}
			compared++
			if s.Sizes[i] != before {
				changes++
			}
			if st.size == s.Sizes[i] {
				continue
			}
			// As the comment on its behavior says: without one the HPA goes on to the highest of the last 5m.
			if differ++; strings.Contains(string(s.HPA), `"behavior"`) || s.Sizes[i] < st.size {
				t.Errorf("seed %d step %d: %d -> %d, the HPA %d: %s\n%s", s.Seed, i, before, st.size, s.Sizes[i], scaler.Last().Text, s.HPA)
			}
			break
		}
	}
	t.Logf("%d objects, %d decisions of which %d were changes; %d objects without behavior differ", len(all), compared, changes, differ)
	if len(all) < 200 || compared < 11_000 || changes < 800 || differ > 3 {
		t.Error("that compares too little, or too many differ")
	}
}

// observed is the answer of a metric's query where the controller sees a value: of a resource the percentage that each pod
// uses, of a Pods metric what each pod has.
func observed(name string, rule *rules.Scale, v float64, size int) float64 {
	switch {
	case name == "cpu" || name == "memory":
		return v / 100
	case strings.Contains(rule.Queries[name].Expr, "kube_pod_owner"):
		return v * float64(size)
	}
	return v
}
