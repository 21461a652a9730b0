package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// object is a target as it was read.
type object struct {
	resource        resource
	uid             types.UID
	resourceVersion string // of any change
	generation      int64  // of changes of the spec; 0 where the object may not be read
	spec, ready     int    // replicas
	readiness       string // where the ready replicas are counted
	assumed         bool   // they are not counted as ready at all
	syncedBy        string // the GitOps manager whose sources have the size; empty for none, or where the object may not be read
	paused          bool   // by the annotation PausedBy; false where the object may not be read
	place           place  // of the size, where it is not in the scale subresource
}

func isPaused(whole *unstructured.Unstructured) bool { return switchedOn(whole, PausedBy) }

// switchedOn reads an annotation as KEDA reads its own paused: whatever is not plainly false is true, so that True and yes
// pause as well.
func switchedOn(object *unstructured.Unstructured, annotation string) bool {
	text, given := object.GetAnnotations()[annotation]
	on, err := strconv.ParseBool(text)
	return given && (on || err != nil)
}

// version is that of what a decision is based on. A change of the status is no change of it.
func (o *object) version() string { return fmt.Sprintf("%s/%d/%d", o.uid, o.generation, o.spec) }

// read looks at a target.
func (c *client) read(ctx context.Context, r ref) (*object, error) {
	found, err := c.find(ctx, r.resource)
	if err != nil {
		return nil, c.explain(err, "get", r, "")
	}
	if c.config.resource(r.resource).Replicas != "" {
		return c.readField(ctx, r, found)
	}
	return c.readScale(ctx, r, found)
}

// plain are the resources whose scale subresource has the size of spec.replicas, as Kubernetes itself defines them: the object
// says all, in one request. Of a custom resource only its definition says where the size is.
var plain = []string{"deployments.apps", "statefulsets.apps", "replicasets.apps", "replicationcontrollers"}

// readScale looks at the object itself where that is enough, or else at the scale subresource and then, so that what it has is
// never newer, at the object.
func (c *client) readScale(ctx context.Context, r ref, found resource) (*object, error) {
	if slices.Contains(plain, r.resource) {
		whole, err := c.readWhole(ctx, r, found)
		if err != nil && !apierrors.IsForbidden(err) {
			return nil, c.explain(err, "get", r, "")
		}
		if err == nil {
			o := &object{
				resource: found, uid: whole.GetUID(), resourceVersion: whole.GetResourceVersion(), generation: whole.GetGeneration(), syncedBy: syncedBy(whole), paused: isPaused(whole),
			}
			n, _, err := unstructured.NestedInt64(whole.Object, "spec", "replicas")
			if err != nil {
				return nil, err
			}
			o.spec = int(n)
			return o, c.countReady(o, r, whole)
		}
	}
	scale, err := c.scales.Scales(r.namespace).Get(ctx, found.GroupResource(), r.name, metav1.GetOptions{})
	if err != nil {
		return nil, c.explain(err, "get", r, "scale")
	}
	o := &object{
		resource: found, uid: scale.UID, resourceVersion: scale.ResourceVersion, spec: int(scale.Spec.Replicas), ready: int(scale.Status.Replicas),
		readiness: "those that its scale subresource has, ready or not: its status does not count those that are ready", assumed: true,
	}
	whole, err := c.readWhole(ctx, r, found)
	switch {
	case err != nil && !apierrors.IsForbidden(err):
		return nil, c.explain(err, "get", r, "")
	case err != nil:
		o.readiness = fmt.Sprintf("those that its scale subresource has, ready or not: the Role has no get on %s %s", r.resource, r.name)
		return o, nil
	case whole.GetUID() != o.uid:
		return nil, fmt.Errorf("%w: it was deleted and made anew", errStale)
	}
	o.generation, o.syncedBy, o.paused = whole.GetGeneration(), syncedBy(whole), isPaused(whole)
	return o, c.countReady(o, r, whole)
}

// glance looks at no more of a target than a write needs that was too late before: the less is asked for between the look
// and the write, the sooner is it in time. Where the scale subresource has the size, the generation is left out.
func (c *client) glance(ctx context.Context, r ref) (*object, error) {
	found, err := c.find(ctx, r.resource)
	if err != nil || c.config.resource(r.resource).Replicas != "" {
		return c.read(ctx, r)
	}
	scale, err := c.scales.Scales(r.namespace).Get(ctx, found.GroupResource(), r.name, metav1.GetOptions{})
	if err != nil {
		return nil, c.explain(err, "get", r, "scale")
	}
	return &object{resource: found, uid: scale.UID, resourceVersion: scale.ResourceVersion, spec: int(scale.Spec.Replicas)}, nil
}

// readField looks at an object that keeps a size in a field of its own.
func (c *client) readField(ctx context.Context, r ref, found resource) (*object, error) {
	whole, err := c.readWhole(ctx, r, found)
	if err != nil {
		return nil, c.explain(err, "get", r, "")
	}
	return c.sized(r, found, whole)
}

// sized reads the size of an object out of its field.
func (c *client) sized(r ref, found resource, whole *unstructured.Unstructured) (*object, error) {
	of := c.config.resource(r.resource)
	at, err := parsePointer(of.Replicas)
	if err != nil {
		return nil, err
	}
	o := &object{
		resource: found, uid: whole.GetUID(), resourceVersion: whole.GetResourceVersion(), generation: whole.GetGeneration(), paused: isPaused(whole),
	}
	if o.place, err = at.find(whole.Object, r.part); err != nil {
		return nil, err
	}
	n, set, err := o.place.replicas()
	if err != nil {
		return nil, err
	}
	if o.spec = n; !set {
		o.spec = of.Unset
	}
	o.ready, o.assumed = o.spec, true
	o.readiness = "all that its spec asks for: its status does not count them"
	return o, c.countReady(o, r, whole)
}

// countReady reads the ready replicas out of an object, if it has them.
func (c *client) countReady(o *object, r ref, whole *unstructured.Unstructured) error {
	of := c.config.resource(r.resource)
	field, known := of.Ready, of.Ready != ""
	if field == "" && of.Replicas == "" {
		field = "/status/readyReplicas"
	}
	at, err := parsePointer(field)
	if err != nil || at == nil {
		return err
	}
	found, err := at.find(whole.Object, "")
	if err != nil {
		return err
	}
	n, there, err := found.replicas()
	if err != nil {
		return err
	}
	// A count of 0 is left out of most objects: what another object of the resource counts, this one counts as well.
	gr := o.resource.GroupResource()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counted[gr] = c.counted[gr] || there
	if there || known || c.counted[gr] {
		o.ready, o.assumed = n, false
		o.readiness = "those that its " + field + " counts"
	}
	return nil
}

// readWhole gets an object. One that the Role does not give is not asked for again for a while.
func (c *client) readWhole(ctx context.Context, r ref, found resource) (*unstructured.Unstructured, error) {
	r.part = ""
	c.mu.Lock()
	tried := c.unread[r]
	c.mu.Unlock()
	if time.Since(tried) < forgetAfter {
		return nil, apierrors.NewForbidden(found.GroupResource(), r.name, fmt.Errorf("it was tried %s ago", time.Since(tried).Round(time.Second)))
	}
	whole, err := c.objects.Resource(found.GroupVersionResource).Namespace(r.namespace).Get(ctx, r.name, metav1.GetOptions{})
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		delete(c.unread, r)
	case apierrors.IsForbidden(err):
		c.unread[r] = time.Now()
	}
	return whole, err
}

// write gives a target another size, if it is as it was read, and returns it as it is then. The error wraps errStale where
// it is not.
func (c *client) write(ctx context.Context, r ref, now *object, to int, dryRun bool) (*object, error) {
	var how []string
	if dryRun {
		how = []string{metav1.DryRunAll}
	}
	if now.place.path != "" {
		return c.patch(ctx, r, now, to, how)
	}
	next, err := c.scales.Scales(r.namespace).Update(ctx, now.resource.GroupResource(), &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: r.name, Namespace: r.namespace, UID: now.uid, ResourceVersion: now.resourceVersion},
		Spec:       autoscalingv1.ScaleSpec{Replicas: int32(to)},
	}, metav1.UpdateOptions{DryRun: how, FieldManager: fieldManager})
	if err != nil {
		return nil, c.explain(err, "update", r, "scale")
	}
	if dryRun {
		return nil, nil
	}
	written := *now
	written.resourceVersion, written.spec = next.ResourceVersion, int(next.Spec.Replicas)
	if now.generation == 0 || written.spec == now.spec {
		return &written, nil
	}
	// What the apiserver does to an object whose spec was changed. An answer with the object itself would say so, but that of
	// the scale subresource does not have it.
	written.generation++
	return &written, nil
}

// fieldManager is whose the size is from then on, in the object's metadata.managedFields.
const fieldManager = "flyball"

// patch changes a field by a JSON patch. Its tests are carried out by the apiserver, at the moment of the change.
func (c *client) patch(ctx context.Context, r ref, now *object, to int, how []string) (*object, error) {
	operations := []operation{{"test", "/metadata/uid", now.uid}}
	if now.place.guard != "" {
		operations = append(operations, operation{"test", now.place.guard, r.part})
	}
	do := operation{"replace", now.place.path, to}
	if now.place.value != nil {
		operations = append(operations, operation{"test", now.place.path, now.spec})
	} else { // nothing can be tested for not being there, but that nothing else was changed
		operations = append(operations, operation{"test", "/metadata/generation", now.generation})
		do.Op = "add"
	}
	text, err := json.Marshal(append(operations, do))
	if err != nil {
		return nil, err
	}
	whole, err := c.objects.Resource(now.resource.GroupVersionResource).Namespace(r.namespace).
		Patch(ctx, r.name, types.JSONPatchType, text, metav1.PatchOptions{DryRun: how, FieldManager: fieldManager})
	if err != nil {
		return nil, c.explain(err, "patch", r, "")
	}
	return c.sized(r, now.resource, whole)
}
