// Package none is the actuator of targets whose size something else sets: an HPA that reads the metric
// flyball_scale_desired_replicas through an adapter, KEDA, a script. It changes nothing but what it remembers, which is the
// size that was decided last: that is the size which decisions start from, since whatever follows it lags behind.
//
// Of what is really there it knows by PromQL, where its configuration has queries. They are asked for the size to begin
// with, for the replicas that are ready and, of rules that only observe, for every decision. A query without an answer is
// an error of Observe, so that rules hold what they have.
//
//	targets := none.New("none", none.Options{Query: query, Remembered: remembered})
//	targets.Set(none.Config{"llama": {Replicas: `kube_deployment_spec_replicas{deployment="llama"}`}})
package none
