// Package keda is the external scaler of KEDA: a gRPC server that says how many replicas a rule wants, so that KEDA, and the
// HPA that it keeps, set the size. It acts on nothing itself: the size of its targets is that of package none.
//
//	server := keda.NewServer(sizes, keda.Options{Registerer: metrics})
//	server.Changed("llama")           // a decision: streams send what is new
//	err := server.Serve(ctx, listener) // until ctx ends
//
// The trigger of a ScaledObject names the rule, and of a rule for many targets the target:
//
//	triggers:
//	- type: external-push           # external asks only each pollingInterval whether to leave zero
//	  metadata: {scalerAddress: flyball.ml:9841, rule: llama}
//
// # What the HPA makes of it
//
// The metric is the number of replicas wanted, D, with a target of 1 for the average of each replica, so that the HPA comes
// to ceil(D/1) = D. But it moves only when D divided by the replicas that there are, C, is more than its tolerance from 1,
// which is 0.1 unless told otherwise: at 95 replicas a D of 100 moves nothing. No other numbers mend that. The HPA comes to
// D only with a ratio of value to target in (D-1, D], and it compares just that ratio with C: on the way up D is the most it
// can be. On the way down, D-1 and a little would move it where D does not, by one replica at most, and would leave it short
// by one where C is not what was thought. So D itself it is, which can be read in `kubectl get hpa`, and the tolerance is
// what to set (Kubernetes 1.35, or the flag --horizontal-pod-autoscaler-tolerance of its controller manager before that):
//
//	advanced:
//	  horizontalPodAutoscalerConfig:
//	    behavior:
//	      scaleUp: {tolerance: "0", stabilizationWindowSeconds: 0}
//	      scaleDown: {tolerance: "0", stabilizationWindowSeconds: 0}
//
// With it the HPA comes to D exactly; without it to D or, where that is within a tenth of C, to C. The windows of the HPA
// are zero since the rule has its own.
//
// # What is not an answer
//
// While a rule has decided nothing yet, holds because data is missing, only observes, is frozen, or has not been evaluated
// for three intervals, the answer is the error Unavailable and never a number, 0 least of all: KEDA and the HPA then keep
// what there is, or go to the fallback of the ScaledObject once it has failed often enough. A rule or target that there is
// not is NotFound, a trigger that does not say which one InvalidArgument. Streams stay open while there is no answer, and
// send the next; those of a rule that a reload removes end with NotFound, all others when flyball stops, without an error, upon
// which KEDA comes back within two seconds.
package keda
