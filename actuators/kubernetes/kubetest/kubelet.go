package kubetest

import (
	"context"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// readyStatus is what a kubelet says of a pod that serves.
const readyStatus = `{"status":{"phase":"Running","conditions":[
 {"type":"PodScheduled","status":"True"},{"type":"Initialized","status":"True"},
 {"type":"ContainersReady","status":"True"},{"type":"Ready","status":"True"}]}}`

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
	resource := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"})
	watch, err := resource.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + Node})
	if err != nil {
		return err
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		pod, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type != "ADDED" && event.Type != "MODIFIED" {
			continue
		}
		pods := resource.Namespace(pod.GetNamespace())
		phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
		switch {
		case pod.GetDeletionTimestamp() != nil:
			now := int64(0)
			err = pods.Delete(ctx, pod.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now})
		case phase != "Running":
			_, err = pods.Patch(ctx, pod.GetName(), types.MergePatchType, []byte(readyStatus), metav1.PatchOptions{}, "status")
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
