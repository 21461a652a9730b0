// Package oracle asks the HorizontalPodAutoscaler's own controller, k8s.io/kubernetes/pkg/controller/podautoscaler, what it
// does with random objects and demands, and keeps it in ../testdata/oracle.json, by which package convert is tested. It is a
// module of its own, so that the dependencies of the controller stay out of flyball's.
//
//	go test ./... -update   # writes the file anew
//	go test ./...           # says whether the controller still does what the file says
package oracle
