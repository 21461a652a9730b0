// Package kubernetes is the actuator for workloads of a Kubernetes cluster: anything with a scale subresource (Deployment,
// StatefulSet, ReplicaSet, LeaderWorkerSet and other custom resources), and objects that keep a size in a field of their
// own (a KServe InferenceService's minReplicas, a worker group of a RayService, the minimum of an HPA or a ScaledObject).
//
//	k := kubernetes.New(kubernetes.Options{Logger: log})
//	update, err := k.Prepare(&cfg) // reads the kubeconfig; changes nothing
//	update.Commit()
//	state, err := k.Observe(ctx, actuators.Target{Kind: "kubernetes", Name: "ml/deployments.apps/llama"})
//
// A target's name is namespace/resource.group/name, with the resource as kubectl api-resources lists it: in the plural, and
// without a group where it has none. A part of an object, such as a worker group of a RayService, is a fourth element.
//
// # No blind write
//
// Every write carries the resourceVersion that was read (of a field: a JSON patch that tests what was read). The status of a
// workload shares that version with its size and changes all the time, so a conflict is no refusal yet: the object is read
// again, and written again if it is the same one and still has the size that the decision was made for.
//
// The version of a State is made of the object's uid, its metadata.generation, which counts changes of its spec, and its
// size. An identity that may not get the object, but only its scale subresource, sees no generation; then a size that went
// away and came back since an observation is taken for the same.
//
// # Others that set the same size
//
// Before a change the HPAs and ScaledObjects of the target's namespace are listed, at most every few seconds, for those whose
// scaleTargetRef it is. Config.Conflict says what becomes of the change then: it is refused with actuators.ErrOwned, or the
// autoscaler's minimum is changed instead, or the autoscaler is taken out of charge. Both are JSON patches that test the
// resourceVersion that was read. What was taken is in annotations of the autoscaler, and given back by them: by the next change
// of the target once Config says otherwise, or by Release.
//
// # Endpoints of Services
//
// Services follow the endpoints of Services, for a proxy to send to, by their EndpointSlices. That has nothing to do with
// scaling but the cluster, and needs list and watch of endpointslices.discovery.k8s.io in the namespaces of the Services.
//
//	s, err := kubernetes.NewServices(kubernetes.ServicesOptions{Logger: log})
//	update, err := s.Prepare(&cfg) // or nil: the pod's service account
//	update.Commit()
//	current, changes, err := s.Endpoints(ctx, "ml/llama:http")
//
// # What it may do
//
// get and update of the scale subresource is all that scaling needs. With get of the object as well, ready replicas are
// those that its status says are ready, and a look at a Deployment or another of Kubernetes's own workloads is one request;
// without, they are those that it has. create of events.k8s.io/events has changes, and
// refusals, told on the object. list of horizontalpodautoscalers and scaledobjects finds what else sets the size.
//
// Requests wait for their turn within qps and burst: target by target in a circle, so that one with many, or whose requests
// are turned away, has no other wait for more than one of them. An answer of 429 or 5xx is followed by a pause with jitter, or
// by as long as Retry-After asks for, within the timeout of the call. The Retry-After of a 429, by which the apiserver's flow
// control turns away a user and not an object, is kept by all. Nothing is cached but the list of the cluster's resources and,
// for seconds, the autoscalers.
package kubernetes
