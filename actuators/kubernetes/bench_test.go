package kubernetes

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
	"flyball/rules"
	"flyball/rules/journal"
)

// changed is how many targets BenchmarkChange500 changes at once.
const changed = 500

// BenchmarkChange500 changes 500 targets at once under the default limits of a client. Of the calls that change a size it
// reports the median and the 99th of a hundred, in seconds until the apiserver received them, by its audit log:
//
//   - rule: one rule for_each of the targets, evaluated as a group does, Events included: decision-* since the decision for the
//     target was in the journal, evaluation-* since the evaluation began, which looks at each target first, and
//     done-s when all was over;
//   - flyball: Apply alone, of what was observed before, since all were decided;
//   - bare: client-go's scale client alone, at the same limits.
//
// The Deployments have no pods that could start, so that what is measured is the way there.
func BenchmarkChange500(b *testing.B) {
	c := kubetest.Start(b)
	c.Apply(b, []string{"testdata/workloads.yml"})
	var objects strings.Builder
	for n := range changed {
		fmt.Fprintf(&objects, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: p%[1]d, namespace: ml}\nspec: {paused: true, replicas: 1, "+
			"selector: {matchLabels: {app: p%[1]d}}, template: {metadata: {labels: {app: p%[1]d}}, spec: {containers: [{name: none, image: none}]}}}\n---\n", n)
	}
	c.ApplyText(b, objects.String())
	kubeconfig := c.ServiceAccount(b, "ml", "fleet")
	c.ApplyText(b, fleetRole)

	// received are the times at which the apiserver received the changes of sizes since a time, by target.
	received := func(b *testing.B, since time.Time) map[string]time.Time {
		b.Helper()
		at := map[string]time.Time{}
		for deadline := time.Now().Add(time.Minute); len(at) < changed; time.Sleep(100 * time.Millisecond) { // the log is written behind
			if time.Now().After(deadline) {
				b.Fatalf("the audit log has %d changes, want %d", len(at), changed)
			}
			for _, w := range c.Writes(b, "system:serviceaccount:ml:fleet") {
				if w.Resource == "deployments.apps/scale" && w.Code == http.StatusOK && w.At.After(since) {
					at[w.Name] = w.At
				}
			}
		}
		return at
	}
	report := func(b *testing.B, what string, at map[string]time.Time, since func(name string) time.Time) {
		var took []time.Duration
		for name, t := range at {
			took = append(took, t.Sub(since(name)))
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds(), what+"p50-s")
		b.ReportMetric(took[len(took)*99/100].Seconds(), what+"p99-s")
	}
	// all calls do for every target at once.
	all := func(b *testing.B, do func(n int) error) {
		b.Helper()
		var wg sync.WaitGroup
		for n := range changed {
			wg.Go(func() {
				if err := do(n); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	config := DefaultConfig()
	config.Kubeconfig = kubeconfig

	b.Run("rule", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			reset(b, c)
			k := benchmarked(b, config)
			if _, err := k.Observe(context.Background(), deployment(0)); err != nil { // which finds the resource
				b.Fatal(err)
			}
			noted := &noted{at: map[string]time.Time{}}
			var err error
			if noted.Journal, err = journal.Open(filepath.Join(b.TempDir(), "decisions.jsonl"), journal.Options{}); err != nil {
				b.Fatal(err)
			}
			scaler := fleetScaler(b, k, noted)
			began := time.Now()
			b.StartTimer()
			if _, err := scaler.Eval(context.Background(), began); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(time.Since(began).Seconds(), "done-s")
			for _, d := range scaler.Decisions() {
				if d.Result != rules.Applied || d.To != 3 {
					b.Fatalf("%s: %s to %d: %s %s", d.Target, d.Result, d.To, d.Text, d.Error)
				}
			}
			at := received(b, began)
			report(b, "decision-", at, func(name string) time.Time {
				return noted.at["kubernetes/"+strings.Replace(name, "/", "/deployments.apps/", 1)]
			})
			report(b, "evaluation-", at, func(string) time.Time { return began })
			if err := noted.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("flyball", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			reset(b, c)
			alone := config
			alone.Events = false // they are of Apply's, and not of what is asked for
			k := benchmarked(b, alone)
			states := make([]actuators.State, changed)
			for n := range changed {
				var err error
				if states[n], err = k.Observe(context.Background(), deployment(n)); err != nil {
					b.Fatal(err)
				}
			}
			time.Sleep(time.Second) // for the limit to have room for a burst again, as between two evaluations
			began := time.Now()
			b.StartTimer()
			all(b, func(n int) error {
				_, err := k.Apply(context.Background(), deployment(n), actuators.Change{From: states[n].Spec, To: 3, IfVersion: states[n].Version, DecisionID: fmt.Sprint(n)})
				return err
			})
			b.StopTimer()
			report(b, "", received(b, began), func(string) time.Time { return began })
			b.StartTimer()
		}
	})
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			reset(b, c)
			k := benchmarked(b, config)
			if _, err := k.Observe(context.Background(), deployment(0)); err != nil {
				b.Fatal(err)
			}
			scales := k.client.Load().scales.Scales("ml")
			group := schema.GroupResource{Group: "apps", Resource: "deployments"}
			read := make([]*autoscalingv1.Scale, changed)
			for n := range changed {
				var err error
				if read[n], err = scales.Get(context.Background(), group, fmt.Sprint("p", n), metav1.GetOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			time.Sleep(time.Second)
			began := time.Now()
			b.StartTimer()
			all(b, func(n int) error {
				read[n].Spec.Replicas = 3
				_, err := scales.Update(context.Background(), group, read[n], metav1.UpdateOptions{})
				return err
			})
			b.StopTimer()
			report(b, "", received(b, began), func(string) time.Time { return began })
			b.StartTimer()
		}
	})
}

// fleetRole is what flyball may do in the benchmark.
const fleetRole = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: fleet, namespace: ml}
rules:
- {apiGroups: [apps], resources: [deployments, deployments/scale], verbs: [get, update]}
- {apiGroups: [autoscaling], resources: [horizontalpodautoscalers], verbs: [list]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: fleet, namespace: ml}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: fleet}
subjects: [{kind: ServiceAccount, name: fleet, namespace: ml}]
`

func deployment(n int) actuators.Target { return named(fmt.Sprintf("ml/deployments.apps/p%d", n)) }

// reset gives every target one replica, and returns when the controller has seen it and leaves it alone.
func reset(b *testing.B, c *kubetest.Cluster) {
	b.Helper()
	for n := range changed {
		if _, err := c.Admin.Resource(deployments).Namespace("ml").Patch(b.Context(), fmt.Sprint("p", n), "application/merge-patch+json",
			[]byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	for settled := false; !settled; time.Sleep(50 * time.Millisecond) {
		list, err := c.Admin.Resource(deployments).Namespace("ml").List(b.Context(), metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		settled = true
		for _, d := range list.Items {
			status, _ := d.Object["status"].(map[string]any)
			observed, _ := status["observedGeneration"].(int64)
			settled = settled && observed == d.GetGeneration()
		}
	}
}

// benchmarked is an actuator that begins with all of its burst.
func benchmarked(b *testing.B, config Config) *Kubernetes {
	b.Helper()
	k := New(Options{})
	update, err := k.Prepare(&config)
	if err != nil {
		b.Fatal(err)
	}
	update.Commit()
	b.Cleanup(k.Close)
	return k
}

// fleetScaler is the rule for all the targets, as the program has it.
func fleetScaler(b *testing.B, k *Kubernetes, j rules.Journal) *rules.Scaler {
	b.Helper()
	const text = `
groups:
- name: fleet
  interval: 15s
  rules:
  - scale: fleet
    for_each: {by: [deployment], limit: 1000}
    target: {kind: kubernetes, name: 'ml/deployments.apps/{{ $labels.deployment }}'}
    mode: act
    max: 8
    queries: {demand: demand}
    signals: [{name: load, value: demand, target_per_replica: 10}]
`
	file, err := (&rules.Reader{Defaults: rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 15 * time.Second}}).Parse("rules.yml", []byte(text))
	if err != nil {
		b.Fatal(err)
	}
	return rules.NewScaler(file.Groups[0].Rules[0].Scale, rules.ScalerOptions{
		Querier: fleetDemand{}, Actuators: map[string]actuators.Actuator{Kind: k}, Journal: j,
		Metrics: rules.NewMetrics(prometheus.NewRegistry()), Memory: &rules.Memory{}, Acting: true, Parallel: 32,
	})
}

// fleetDemand is a demand for three replicas of each target.
type fleetDemand struct{}

func (fleetDemand) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]rules.Sample, error) {
	v := 30.0
	if strings.Contains(expr, "timestamp(") {
		v = float64(at.Unix())
	}
	samples := make([]rules.Sample, changed)
	for n := range samples {
		samples[n] = rules.Sample{Labels: labels.FromStrings("deployment", fmt.Sprint("p", n)), Value: v, Time: at}
	}
	return samples, nil
}

// noted is a journal that notes when a target was about to be asked.
type noted struct {
	*journal.Journal
	mu sync.Mutex
	at map[string]time.Time
}

func (n *noted) Append(d *rules.Decision) error {
	err := n.Journal.Append(d)
	if d.Result == rules.Applying {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.at[d.Target] = time.Now()
	}
	return err
}
