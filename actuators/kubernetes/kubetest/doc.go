// Package kubetest runs a Kubernetes control plane for tests: a real kube-apiserver and kube-controller-manager over a real
// etcd, on loopback, and a kubelet in name only, since there is no node to run anything on.
//
//	c := kubetest.Start(t)
//	c.Apply(t, []string{"llama.yml"})                //  namespaces, roles, deployments, custom resource definitions
//	kubeconfig := c.ServiceAccount(t, "ml", "flyball") // an identity with what its roles allow and no more
//	...
//	writes := c.Writes(t, "system:serviceaccount:ml:flyball") // what it wrote, as the apiserver's audit log has it
//
// Pods whose template names [Node] get ready soon after they were made, and are gone soon after they were deleted. They have
// addresses, by which the EndpointSlices of Services name them; in a test that is [Isolated] something can listen there. All
// programs end with the test, and their data with them.
//
// The programs are built by .ci/components, which make test calls, once for each version of the module in programs/: it has a
// go.mod of its own, so that the dependencies of Kubernetes stay out of flyball's. A test whose programs are missing is
// skipped with the reason, and fails where the environment says CI=true.
package kubetest
