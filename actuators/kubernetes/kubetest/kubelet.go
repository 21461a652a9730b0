package kubetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// readyStatus is what a kubelet says of a pod that serves, at its address.
const readyStatus = `{"status":{"phase":"Running","podIP":"%[1]s","podIPs":[{"ip":"%[1]s"}],"conditions":[
 {"type":"PodScheduled","status":"True"},{"type":"Initialized","status":"True"},
 {"type":"ContainersReady","status":"True"},{"type":"Ready","status":"True"}]}}`

// kubelet is what a test has of it in hand.
type kubelet struct {
	mu    sync.Mutex     // guards what follows
	held  bool           // pods that are new do not get ready
	used  [255]types.UID // the pods that have the addresses [PodIP]
	again func()         // ends the present watch; the next begins with all pods
}

// HoldPods keeps pods that are new from getting ready, as if their images were large, until ReleasePods.
func (c *Cluster) HoldPods() { c.kubelet.hold(true) }

// ReleasePods lets pods get ready.
func (c *Cluster) ReleasePods() { c.kubelet.hold(false) }

func (k *kubelet) hold(held bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held = held; !held && k.again != nil {
		k.again()
	}
}

func (k *kubelet) holds() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

// PodIP is the address that a pod is given which is the n-th of those that are there, from 1 on: the first that is free. They are
// on no interface; see [Isolated].
func PodIP(n int) string { return fmt.Sprintf("10.244.0.%d", n) }

// address is that of a pod, which has it from now on.
func (k *kubelet) address(pod types.UID) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	free := 0
	for n := 1; n < len(k.used); n++ {
		if k.used[n] == pod {
			return PodIP(n)
		}
		if k.used[n] == "" && free == 0 {
			free = n
		}
	}
	k.used[free] = pod
	return PodIP(free)
}

// release takes the address of a pod that is gone.
func (k *kubelet) release(pod types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for n := range k.used {
		if k.used[n] == pod {
			k.used[n] = ""
		}
	}
}

// startNode makes the node, which endpoints of a Service have to be on.
func (c *Cluster) startNode(t testing.TB) {
	t.Helper()
	c.ApplyText(t, "apiVersion: v1\nkind: Node\nmetadata: {name: "+Node+"}\n")
}

// startKubelet makes pods of the node ready, and removes those that were deleted, until the test ends.
func (c *Cluster) startKubelet(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		said := ""
		for ctx.Err() == nil {
			if err := c.keepPods(ctx); err != nil && ctx.Err() == nil {
				if err.Error() != said {
					said = err.Error()
					t.Logf("kubelet: %v", err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond): // the apiserver may be away on purpose
				}
			}
		}
	}()
}

// keepPods follows the pods of the node until the apiserver ends the watch.
func (c *Cluster) keepPods(ctx context.Context) error {
	ctx, again := context.WithCancel(ctx)
	defer again()
	c.kubelet.mu.Lock()
	c.kubelet.again = again
	c.kubelet.mu.Unlock()
	resource := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"})
	mine := metav1.ListOptions{FieldSelector: "spec.nodeName=" + Node}
	list, err := resource.List(ctx, mine)
	if err != nil {
		return err
	}
	for i := range list.Items {
		if err := c.keepPod(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	mine.ResourceVersion = list.GetResourceVersion()
	watch, err := resource.Watch(ctx, mine)
	if err != nil {
		return err
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		pod, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type != "ADDED" && event.Type != "MODIFIED" {
			continue
		}
		if err := c.keepPod(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) keepPod(ctx context.Context, pod *unstructured.Unstructured) (err error) {
	pods := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(pod.GetNamespace())
	phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
	switch {
	case pod.GetDeletionTimestamp() != nil:
		now := int64(0)
		err = pods.Delete(ctx, pod.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now})
		c.kubelet.release(pod.GetUID())
	case phase != "Running" && !c.kubelet.holds():
		_, err = pods.Patch(ctx, pod.GetName(), types.MergePatchType, fmt.Appendf(nil, readyStatus, c.kubelet.address(pod.GetUID())), metav1.PatchOptions{}, "status")
	}
	if apierrors.IsNotFound(err) || ctx.Err() != nil {
		return nil
	}
	return err
}
