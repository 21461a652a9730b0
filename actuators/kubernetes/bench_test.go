package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

// BenchmarkChange500 changes 500 targets at once, each as it was observed, under the default limits of a client, and reports
// when the first, the median, the 99th of a hundred and the last was through, in seconds from the decision; bare is the scale
// client alone, at the same limits. The objects have no controller, so that what is measured is the way there.
func BenchmarkChange500(b *testing.B) {
	const targets = 500
	c := kubetest.Start(b)
	c.Apply(b, []string{"testdata/workloads.yml", "testdata/definitions.yml"})
	var objects strings.Builder
	for n := range targets {
		fmt.Fprintf(&objects, "apiVersion: example.com/v1\nkind: Pool\nmetadata: {name: p%d, namespace: ml}\nspec: {size: 1}\n---\n", n)
	}
	c.ApplyText(b, objects.String())

	// all calls do for every target at once and reports how long each took.
	all := func(b *testing.B, do func(n int) error) {
		b.Helper()
		took := make([]time.Duration, targets)
		var wg sync.WaitGroup
		began := time.Now()
		for n := range targets {
			wg.Go(func() {
				if err := do(n); err != nil {
					b.Error(err)
				}
				took[n] = time.Since(began)
			})
		}
		wg.Wait()
		slices.Sort(took)
		for _, of := range []struct {
			unit string
			at   int
		}{{"first-s", 0}, {"p50-s", targets / 2}, {"p99-s", targets * 99 / 100}, {"last-s", targets - 1}} {
			b.ReportMetric(took[of.at].Seconds(), of.unit)
		}
	}
	to := 1
	b.Run("flyball", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			config := DefaultConfig()
			config.Kubeconfig = c.Kubeconfig()
			k := benchmarked(b, config)
			to = to%7 + 1
			states := make([]actuators.State, targets)
			for n := range targets {
				var err error
				if states[n], err = k.Observe(context.Background(), pool(n)); err != nil {
					b.Fatal(err)
				}
			}
			time.Sleep(time.Second) // for the limit to have room for a burst again, as between two evaluations
			b.StartTimer()
			all(b, func(n int) error {
				_, err := k.Apply(context.Background(), pool(n), actuators.Change{From: states[n].Spec, To: to, IfVersion: states[n].Version, DecisionID: fmt.Sprint(to, n)})
				return err
			})
		}
	})
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			config := DefaultConfig()
			config.Kubeconfig = c.Kubeconfig()
			k := benchmarked(b, config)
			to = to%7 + 1
			if _, err := k.Observe(context.Background(), pool(0)); err != nil { // which finds the resource
				b.Fatal(err)
			}
			scales := k.client.Load().scales.Scales("ml")
			pools := schema.GroupResource{Group: "example.com", Resource: "pools"}
			read := make([]*autoscalingv1.Scale, targets)
			for n := range targets {
				var err error
				if read[n], err = scales.Get(context.Background(), pools, fmt.Sprint("p", n), metav1.GetOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			time.Sleep(time.Second)
			b.StartTimer()
			all(b, func(n int) error {
				read[n].Spec.Replicas = int32(to)
				_, err := scales.Update(context.Background(), pools, read[n], metav1.UpdateOptions{})
				return err
			})
		}
	})
}

func pool(n int) actuators.Target { return named(fmt.Sprintf("ml/pools.example.com/p%d", n)) }

func benchmarked(b *testing.B, config Config) *Kubernetes {
	b.Helper()
	config.Events = false // they are of Apply's, and not of what is asked for
	k := New(Options{})
	update, err := k.Prepare(&config)
	if err != nil {
		b.Fatal(err)
	}
	update.Commit()
	b.Cleanup(k.Close)
	return k
}
