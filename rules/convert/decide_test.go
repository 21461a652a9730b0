package convert

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// play evaluates the rule made of an object each 15 s and returns each change of size as minutes:seconds and the size. The
// demand is that of the query named; queries whose name ends in _recent are given with it.
func play(t *testing.T, text string, start int, minutes float64, answers func(at time.Duration) map[string]float64) []string {
	t.Helper()
	convert := HPA
	if strings.Contains(text, "keda.sh") {
		convert = ScaledObject
	}
	r, err := convert([]Input{{Name: "f", Text: []byte(text)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	rule := read(t, r.Text)[0]
	begin := time.Date(2026, 3, 2, 6, 58, 0, 0, time.UTC) // a Monday
	st := &stage{size: start}
	scaler := st.scaler(rule)
	var told []string
	for at := time.Duration(0); at.Minutes() <= minutes; at += 15 * time.Second {
		st.at, st.values, st.silent = begin.Add(at), map[string]float64{}, map[string]bool{}
		given := answers(at)
		for name, q := range rule.Queries {
			if v, is := given[name]; is {
				st.values[q.Expr] = v
			} else {
				st.silent[q.Expr] = true
			}
		}
		before := st.size
		if _, err := scaler.Eval(t.Context(), st.at); err != nil {
			t.Fatal(err)
		}
		if st.size != before {
			told = append(told, fmt.Sprintf("%d:%02d %d", int(at.Minutes()), int(at.Seconds())%60, st.size))
		}
	}
	return told
}

// until is one demand until a time, and then another.
func until(name string, end time.Duration, first, then float64) func(time.Duration) map[string]float64 {
	return func(at time.Duration) map[string]float64 {
		if at < end {
			return map[string]float64{name: first}
		}
		return map[string]float64{name: then}
	}
}

func scaledObject(spec string) string {
	return "{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: a}, spec: {scaleTargetRef: {name: a}, " + spec + "}}"
}

const prometheusTrigger = `triggers: [{type: prometheus, metadata: {query: demand, threshold: "10", activationThreshold: "2"}}]`

// TestDecidesAsTheCommentsSay plays what comments claim of ScaledObjects, and what of an HPA the oracle does not reach.
func TestDecidesAsTheCommentsSay(t *testing.T) {
	minute := time.Minute
	for _, tt := range []struct {
		name    string
		text    string
		start   int
		minutes float64
		answers func(time.Duration) map[string]float64
		want    []string
	}{
		{
			"from 0 one, then the HPA's limits; down after its window and to 0 after cooldownPeriod, which is as long",
			scaledObject(prometheusTrigger), 0, 20, until("prometheus", 2*minute, 95, 0),
			[]string{"0:00 1", "0:15 4", "0:30 8", "0:45 10", "6:45 0"},
		},
		{
			"what does not activate counts as none",
			scaledObject(prometheusTrigger), 0, 5, until("prometheus", time.Hour, 2, 2), nil,
		},
		{
			"with minReplicaCount above 0 there is no activation",
			scaledObject("minReplicaCount: 1, " + strings.ReplaceAll(prometheusTrigger, `activationThreshold: "2"`, `activationThreshold: "30"`)), 1, 5, until("prometheus", time.Hour, 25, 0),
			[]string{"0:00 3"},
		},
		{
			"idleReplicaCount: 0 or minReplicaCount, for cooldownPeriod after what was active last",
			scaledObject("idleReplicaCount: 0, minReplicaCount: 3, cooldownPeriod: 900, " + prometheusTrigger), 0, 30,
			func(at time.Duration) map[string]float64 {
				all := until("prometheus", 5*minute, 5, 0)(at)
				all["prometheus_recent"] = until("prometheus", 20*minute, 5, 0)(at)["prometheus"]
				return all
			},
			[]string{"0:00 3", "20:00 0"},
		},
		{
			"no answer holds, and is not 0",
			scaledObject(prometheusTrigger), 5, 60, func(time.Duration) map[string]float64 { return nil }, nil,
		},
		{
			"fallback static: exactly so many",
			scaledObject("fallback: {failureThreshold: 3, replicas: 2}, " + prometheusTrigger), 5, 10, func(time.Duration) map[string]float64 { return nil },
			[]string{"5:00 2"}, // by the window of its HPA
		},
		{
			"fallback static: after failureThreshold at pollingInterval",
			scaledObject("fallback: {failureThreshold: 3, replicas: 7}, " + prometheusTrigger), 5, 10, func(time.Duration) map[string]float64 { return nil },
			[]string{"1:30 7"},
		},
		{
			"fallback currentReplicasIfHigher: not fewer",
			scaledObject("fallback: {failureThreshold: 3, replicas: 2, behavior: currentReplicasIfHigher}, " + prometheusTrigger), 5, 10, func(time.Duration) map[string]float64 { return nil }, nil,
		},
		{
			"fallback currentReplicasIfLower: not more",
			scaledObject("fallback: {failureThreshold: 3, replicas: 7, behavior: currentReplicasIfLower}, " + prometheusTrigger), 5, 10, func(time.Duration) map[string]float64 { return nil }, nil,
		},
		{
			"fallback currentReplicas: none",
			scaledObject("fallback: {failureThreshold: 3, replicas: 7, behavior: currentReplicas}, " + prometheusTrigger), 5, 10, func(time.Duration) map[string]float64 { return nil }, nil,
		},
		{
			"paused-scale-in: up, and not down",
			strings.Replace(scaledObject(prometheusTrigger), "name: a}", "name: a, annotations: {autoscaling.keda.sh/paused-scale-in: 'true'}}", 1), 2, 20, until("prometheus", 2*minute, 35, 5),
			[]string{"0:00 4"},
		},
		{
			"cron: from its start to its end",
			scaledObject("minReplicaCount: 1, triggers: [{type: cron, metadata: {timezone: UTC, start: 0 7 * * 1-5, end: 10 7 * * 1-5, desiredReplicas: '3'}}]"), 1, 20,
			func(time.Duration) map[string]float64 { return map[string]float64{"demand": 0} },
			[]string{"2:00 3", "12:00 1"},
		},
		{
			"a formula of triggers is the demand",
			scaledObject("minReplicaCount: 1, advanced: {scalingModifiers: {formula: 'a > 100 ? b : a + 2 * b', target: '10'}}, triggers: [{type: prometheus, name: a, metadata: {query: a, threshold: '1'}}, {type: prometheus, name: b, metadata: {query: b, threshold: '1'}}]"), 1, 10,
			func(at time.Duration) map[string]float64 {
				return map[string]float64{"a": until("a", minute, 21, 101)(at)["a"], "b": 7}
			},
			[]string{"0:00 4", "5:45 1"},
		},
		{
			"kafka: no more replicas than partitions, unless consumers may be idle",
			scaledObject("minReplicaCount: 1, triggers: [{type: kafka, metadata: {consumerGroup: g, topic: t}}]"), 4, 2,
			func(time.Duration) map[string]float64 { return map[string]float64{"kafka": 1000, "partitions": 6} },
			[]string{"0:00 6"},
		},
		{
			"cpu counts while another trigger is active, so that there is a way to 0",
			scaledObject(`triggers: [{type: prometheus, metadata: {query: demand, threshold: "10"}}, {type: cpu, metricType: Utilization, metadata: {value: "50"}}]`), 2, 20,
			func(at time.Duration) map[string]float64 {
				return map[string]float64{"prometheus": until("", minute, 1, 0)(at)[""], "cpu": 0.9}
			},
			[]string{"0:00 4", "0:15 8", "0:30 15", "0:45 27", "5:45 0"},
		},
		{
			"metricType Value is a ratio",
			scaledObject(`minReplicaCount: 1, triggers: [{type: prometheus, metricType: Value, metadata: {query: demand, threshold: "10"}}]`), 4, 1, until("prometheus", 15*time.Second, 15, 10),
			[]string{"0:00 6"},
		},
		{
			"an HPA of more than 100 % of what is requested",
			"{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}, maxReplicas: 9, targetCPUUtilizationPercentage: 150}}",
			4, 1, until("cpu", 15*time.Second, 2.25, 1.5),
			[]string{"0:00 6"},
		},
		{
			"an HPA from 0, by its feature gate",
			"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}, minReplicas: 0, maxReplicas: 9, metrics: [{type: External, external: {metric: {name: load}, target: {type: AverageValue, averageValue: 10}}}]}}",
			0, 7, until("load", minute, 85, 0),
			[]string{"0:00 4", "0:15 8", "5:45 0"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, play(t, tt.text, tt.start, tt.minutes, tt.answers)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
