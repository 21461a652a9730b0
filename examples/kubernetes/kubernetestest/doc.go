// Package kubernetestest tests the manifests of examples/kubernetes, in a module of its own so that kustomize and the types of the
// Prometheus operator are not among what flyball depends on: they are built as kubectl apply -k does it, decoded strictly, held
// against each other, applied to a real kube-apiserver that enforces the restricted Pod Security standard, and what they start is
// started, as the real flyball with their arguments and configuration:
//
//	go test ./...    # in this folder; make test does it
//
// There is nothing here to run the containers: no container engine, no kubelet, no network plugin. What NetworkPolicies let
// through, what a runtime class adds and the order in which a kubelet ends containers are not tested.
package kubernetestest
