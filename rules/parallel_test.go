package rules

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators"
	"flyball/actuators/actuatortest"
)

// distant is a platform whose every answer takes a second.
type distant struct {
	*actuatortest.Fake
	mu         sync.Mutex
	here, most int // calls at the same time
}

func (d *distant) travel() {
	d.mu.Lock()
	d.here++
	d.most = max(d.most, d.here)
	d.mu.Unlock()
	time.Sleep(time.Second)
	d.mu.Lock()
	d.here--
	d.mu.Unlock()
}

func (d *distant) Observe(ctx context.Context, t actuators.Target) (actuators.State, error) {
	d.travel()
	return d.Fake.Observe(ctx, t)
}

func (d *distant) Apply(ctx context.Context, t actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	d.travel()
	return d.Fake.Apply(ctx, t, c)
}

// shelf is a Journal that several write to.
type shelf struct {
	mu sync.Mutex
	pages
}

func (s *shelf) Append(d *Decision) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pages.Append(d)
}

// TestParallel: the targets of a rule for many are seen to at the same time, as many as may be, and come to what they would one
// after the other.
func TestParallel(t *testing.T) {
	const targets = 12
	demand, stamps := map[string]float64{}, map[string]float64{}
	for n := range targets {
		name := fmt.Sprintf("m%02d", n)
		demand[name], stamps[name] = float64(10*(n%4+1)), float64(noon.Unix())-5
	}
	data := table{
		"sum by (model) (requests)": of("model", demand), "scalar(fleet)": {{Value: 1}},
		"max by (model) (timestamp(requests))": of("model", stamps), "max by (model) (timestamp(fleet))": {{Value: float64(noon.Unix()) - 5}},
	}
	var want []Sample
	var decided []string
	for _, tt := range []struct {
		parallel int
		most     int
		takes    time.Duration
	}{
		{0, 1, (2*targets - 3) * time.Second}, // three of them are of the size that they need
		{1, 1, (2*targets - 3) * time.Second},
		{4, 4, 0},
		{100, targets, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			platform := &distant{Fake: &actuatortest.Fake{}}
			for name := range demand {
				platform.Resize(actuators.Target{Kind: "process", Name: "llm-" + name}, 1)
			}
			kept := &shelf{}
			rule := parseScale(t, eachModel)
			rule.ForEach.Limit = targets
			s := NewScaler(rule, ScalerOptions{
				Querier: data, Actuators: map[string]actuators.Actuator{"process": platform}, Journal: kept,
				Metrics: NewMetrics(prometheus.NewPedanticRegistry()), Memory: &Memory{}, Acting: true, Parallel: tt.parallel,
			})
			began := time.Now()
			samples, err := s.Eval(t.Context(), noon)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); platform.most != tt.most || tt.takes > 0 && took != tt.takes {
				t.Errorf("parallel %d: %d calls at the same time within %s, want %d within %s", tt.parallel, platform.most, took, tt.most, tt.takes)
			}
			if want == nil {
				want, decided = samples, told(s.Decisions())
			}
			if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(samples)); diff != "" || len(samples) == 0 {
				t.Errorf("parallel %d writes other samples: %s", tt.parallel, diff)
			}
			if diff := cmp.Diff(decided, told(s.Decisions())); diff != "" {
				t.Errorf("parallel %d decides otherwise: %s", tt.parallel, diff)
			}
			if got := len(kept.kept); got != 2*(targets-3)+3 {
				t.Errorf("parallel %d: %d entries in the journal, want two for each change and one for each other target", tt.parallel, got)
			}
		})
	}

	// Of an evaluation that is stopped halfway nothing is written to the store.
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		rule := parseScale(t, eachModel)
		rule.ForEach.Limit = targets
		s := NewScaler(rule, ScalerOptions{
			Querier: data, Actuators: map[string]actuators.Actuator{"process": &distant{Fake: &actuatortest.Fake{}}}, Journal: &shelf{},
			Metrics: NewMetrics(prometheus.NewPedanticRegistry()), Memory: &Memory{}, Acting: true, Parallel: 2,
		})
		if samples, err := s.Eval(ctx, noon); err == nil || len(samples) > 0 {
			t.Errorf("%d samples, %v; want an error alone", len(samples), err)
		}
	})
}
