// Package kedatest is the external scaler against the client that KEDA itself has, in a module of its own so that KEDA is
// not among what flyball depends on. It tests the real flyball, which it builds, over loopback, and that the code in
// actuators/keda/externalscaler is what KEDA's protocol file generates:
//
//	go test ./...                                   # in this folder; make test does it
//	go test -run '^TestGenerated$' -update ./...    # generates it anew, from the protocol file of the KEDA in go.mod
package kedatest
