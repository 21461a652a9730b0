package oracle

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	scalefake "k8s.io/client-go/scale/fake"
	core "k8s.io/client-go/testing"
	hpav2 "k8s.io/kubernetes/pkg/apis/autoscaling/v2"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
)

var update = flag.Bool("update", false, "write ../testdata/oracle.json")

const (
	file      = "../testdata/oracle.json"
	scenarios = 200
	steps     = 60 // of 15 s
)

// scenario is an object, the demand at each look of the controller, and the size after it.
type scenario struct {
	Seed  uint64                                 `json:"seed"`
	HPA   *autoscalingv2.HorizontalPodAutoscaler `json:"hpa"`
	Start int32                                  `json:"start"`
	// Values of each metric at each step: an External or Object metric's own, a Pods metric's or a resource's of each pod.
	Values [][]int64 `json:"values"`
	Sizes  []int32   `json:"sizes"`
}

// TestOracle plays each scenario through the controller.
func TestOracle(t *testing.T) {
	all := make([]*scenario, scenarios)
	for seed := range all {
		s := newScenario(uint64(seed))
		play(t, s)
		all[seed] = s
	}
	var b bytes.Buffer
	b.WriteString("[\n")
	for i, s := range all {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
		if i < len(all)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString("]\n")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, b.Bytes()) {
		t.Errorf("%s is not what the controller does: -update", file)
	}
}

func newScenario(seed uint64) *scenario {
	rng := rand.New(rand.NewPCG(seed, 5))
	least := int32(1 + rng.IntN(4))
	most := least + int32(rng.IntN(30))
	hpa := &autoscalingv2.HorizontalPodAutoscaler{
		TypeMeta:   metav1.TypeMeta{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler"},
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ml"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "a"},
			MinReplicas:    &least, MaxReplicas: most,
			Metrics: []autoscalingv2.MetricSpec{metric(rng, 0)},
		},
	}
	if rng.IntN(3) == 0 {
		hpa.Spec.Metrics = append(hpa.Spec.Metrics, metric(rng, 1))
	}
	if rng.IntN(4) > 0 {
		hpa.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{}
		if rng.IntN(4) > 0 {
			hpa.Spec.Behavior.ScaleUp = rules(rng, []int32{0, 0, 15, 60, 300})
		}
		if rng.IntN(4) > 0 {
			hpa.Spec.Behavior.ScaleDown = rules(rng, []int32{0, 30, 120, 300})
		}
	}
	s := &scenario{Seed: seed, HPA: hpa, Start: least + int32(rng.IntN(int(most-least)+1))}
	for range steps {
		s.Values = append(s.Values, nil)
	}
	for _, m := range hpa.Spec.Metrics {
		// What the target is for, times the replicas that the demand is for where it is one of the whole.
		unit, whole := target(m), m.Type == autoscalingv2.ExternalMetricSourceType && m.External.Target.Type == autoscalingv2.AverageValueMetricType
		at, spread := 1.0, 0.6
		if whole {
			at, spread = float64(s.Start), float64(most)
		}
		for i := range steps {
			switch rng.IntN(8) {
			case 0: // a jump
				at = spread * rng.Float64() * 1.5
			case 1, 2:
				at *= 0.9 + 0.2*rng.Float64()
			case 3: // exactly at the edge of the tolerance
				at = float64(int(at)) * []float64{0.9, 1, 1.1}[rng.IntN(3)]
			}
			if !whole && i%7 == 0 {
				at = 0.5 + rng.Float64()
			}
			s.Values[i] = append(s.Values[i], max(1, int64(at*float64(unit))))
		}
	}
	return s
}

// metric is a random one. The name tells its place.
func metric(rng *rand.Rand, i int) autoscalingv2.MetricSpec {
	name := autoscalingv2.MetricIdentifier{Name: fmt.Sprintf("metric_%d", i)}
	q := func(n int) *resource.Quantity { return resource.NewQuantity(int64(n), resource.DecimalSI) }
	switch kind := rng.IntN(5); kind {
	case 0:
		percent := int32(20 + rng.IntN(120))
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: []corev1.ResourceName{"cpu", "memory"}[i], Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		}}
	case 1:
		return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
			Metric: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: q(10 + rng.IntN(90))},
		}}
	case 2:
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: q(10 + rng.IntN(90))},
		}}
	default:
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: q(10 + rng.IntN(90))},
		}}
	}
}

// target is that of a metric, in whole units.
func target(m autoscalingv2.MetricSpec) int64 {
	switch {
	case m.Resource != nil:
		return int64(*m.Resource.Target.AverageUtilization)
	case m.Pods != nil:
		return m.Pods.Target.AverageValue.Value()
	case m.External.Target.Value != nil:
		return m.External.Target.Value.Value()
	}
	return m.External.Target.AverageValue.Value()
}

func rules(rng *rand.Rand, windows []int32) *autoscalingv2.HPAScalingRules {
	r := &autoscalingv2.HPAScalingRules{}
	if rng.IntN(3) > 0 {
		r.StabilizationWindowSeconds = &windows[rng.IntN(len(windows))]
	}
	for range rng.IntN(3) {
		p := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: int32(1 + rng.IntN(5)), PeriodSeconds: int32(15 * (1 + rng.IntN(8)))}
		if rng.IntN(2) == 0 {
			p.Type, p.Value = autoscalingv2.PercentScalingPolicy, int32(10+rng.IntN(150))
		}
		r.Policies = append(r.Policies, p)
	}
	if n := rng.IntN(6); n < 3 {
		policy := []autoscalingv2.ScalingPolicySelect{autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.MinChangePolicySelect}[n]
		if rng.IntN(5) == 0 {
			policy = autoscalingv2.DisabledPolicySelect
		}
		r.SelectPolicy = &policy
	}
	if rng.IntN(4) == 0 {
		r.Tolerance = resource.NewMilliQuantity(int64(10*rng.IntN(40)), resource.DecimalSI)
	}
	return r
}

// world is the cluster: a target, its pods, and what the metrics are.
type world struct {
	mu     sync.Mutex
	hpa    *autoscalingv2.HorizontalPodAutoscaler
	size   int32
	values []int64
	pods   func(int32)
}

// play runs the controller at virtual time.
func play(t *testing.T, s *scenario) {
	defer func() {
		// The controller's event recorder has no end: what it leaves behind is waited for in vain.
		if r := recover(); r != nil && !strings.Contains(fmt.Sprint(r), "blocked goroutines remain") {
			panic(r)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		live := s.HPA.DeepCopy()
		if live.Spec.Behavior != nil { // as the apiserver does
			hpav2.SetDefaults_HorizontalPodAutoscalerBehavior(live)
		}
		w := &world{hpa: live, size: s.Start}
		clients := fake.NewClientset(live)
		factory := informers.NewSharedInformerFactory(clients, 0)
		pods := factory.Core().V1().Pods()
		store := pods.Informer().GetStore()
		w.pods = func(size int32) {
			for _, p := range store.List() {
				_ = store.Delete(p)
			}
			for i := range size {
				_ = store.Add(pod(i))
			}
		}
		scales := &scalefake.FakeScaleClient{}
		scales.AddReactor("get", "*", func(core.Action) (bool, runtime.Object, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return true, w.scale(), nil
		})
		scales.AddReactor("update", "*", func(a core.Action) (bool, runtime.Object, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.size = a.(core.UpdateAction).GetObject().(*autoscalingv1.Scale).Spec.Replicas
			w.pods(w.size)
			return true, w.scale(), nil
		})
		mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{{Group: "apps", Version: "v1"}})
		mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, meta.RESTScopeNamespace)
		// A recommendation that is exactly as old as the window counts for an object without behavior and does not for one with
		// it. In this clock all are, in a real one none: a second less is the same for both.
		const window = 5*time.Minute - time.Second
		c := podautoscaler.NewHorizontalController(ctx, clients.CoreV1(), scales, clients.AutoscalingV2(), mapper, w,
			factory.Autoscaling().V2().HorizontalPodAutoscalers(), pods, 15*time.Second, window, 0.1, 0, 0)
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
		w.pods(s.Start)
		ended := make(chan struct{})
		w.values = s.Values[0]
		go func() { c.Run(ctx, 1); close(ended) }() // it looks at once, and then each 15 s
		time.Sleep(time.Second)
		for i := range steps {
			if i > 0 {
				w.mu.Lock()
				w.values = s.Values[i]
				w.mu.Unlock()
				time.Sleep(15 * time.Second)
			}
			synctest.Wait()
			w.mu.Lock()
			s.Sizes = append(s.Sizes, w.size)
			w.mu.Unlock()
		}
		cancel()
		<-ended
		factory.Shutdown()
	})
}

func (w *world) scale() *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ml"},
		Spec:       autoscalingv1.ScaleSpec{Replicas: w.size},
		Status:     autoscalingv1.ScaleStatus{Replicas: w.size, Selector: "app=a"},
	}
}

func pod(i int32) *corev1.Pod {
	long := metav1.NewTime(time.Now().Add(-time.Hour))
	request := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("a-%d", i), Namespace: "ml", Labels: map[string]string{"app": "a"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: request}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &long, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: long},
		}},
	}
}

// value is that of the metric by its name, in thousandths.
func (w *world) value(name string) int64 {
	for i, m := range w.hpa.Spec.Metrics {
		switch {
		case m.Resource != nil && string(m.Resource.Name) == name:
			return w.values[i] * 10 // percent of 1000 thousandths
		case m.Pods != nil && m.Pods.Metric.Name == name, m.External != nil && m.External.Metric.Name == name:
			return w.values[i] * 1000
		}
	}
	panic(name)
}

func (w *world) each(name string) metrics.PodMetricsInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := metrics.PodMetricsInfo{}
	for i := range w.size {
		all[fmt.Sprintf("a-%d", i)] = metrics.PodMetric{Timestamp: time.Now(), Window: time.Minute, Value: w.value(name)}
	}
	return all
}

func (w *world) GetResourceMetric(_ context.Context, r corev1.ResourceName, _ string, _ labels.Selector, _ string) (metrics.PodMetricsInfo, time.Time, error) {
	return w.each(string(r)), time.Now(), nil
}

func (w *world) GetRawMetric(name, _ string, _, _ labels.Selector) (metrics.PodMetricsInfo, time.Time, error) {
	return w.each(name), time.Now(), nil
}

func (w *world) GetObjectMetric(string, string, *autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, time.Time, error) {
	panic("none is asked")
}

func (w *world) GetExternalMetric(name, _ string, _ labels.Selector) ([]int64, time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []int64{w.value(name)}, time.Now(), nil
}
