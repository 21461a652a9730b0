package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"flyball/actuators"
)

// Conflict is what becomes of a change where an HPA or a ScaledObject sets the size of the same target.
type Conflict string

// What Conflict may be.
const (
	ConflictRefuse Conflict = "refuse" // nothing is changed
	ConflictFloor  Conflict = "floor"  // the autoscaler's minimum is changed, and it stays in charge above that
	ConflictAdopt  Conflict = "adopt"  // the autoscaler is taken out of charge, once, and the target is changed
)

// Annotations of an HPA or a ScaledObject, by which it can be given back as it was.
const (
	MinReplicas = "flyball/min-replicas" // the minimum before the first change of it; empty where it was not given
	Behavior    = "flyball/behavior"     // spec.behavior of an HPA before it was taken out of charge, as JSON; null for none
	KEDAPaused  = "flyball/keda-paused"  // KEDA's annotation of a ScaledObject before it was taken out of charge; empty where it was not given
)

// paused and pausedAt are KEDA's own annotations. By the second a ScaledObject keeps a size, by the first it keeps its hands off.
const (
	paused   = "autoscaling.keda.sh/paused"
	pausedAt = "autoscaling.keda.sh/paused-replicas"
)

const (
	hpaResource    = "horizontalpodautoscalers.autoscaling"
	scaledResource = "scaledobjects.keda.sh"
)

// hpas has behavior, which v1 has not.
var hpas = schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}

// owner is an HPA or a ScaledObject whose scaleTargetRef is a target.
type owner struct {
	ref
	of       schema.GroupKind // the target's
	target   string           // its name
	hands    bool             // off: it changes no size within its bounds
	min, max int              // that an HPA keeps to although its hands are off; 0, 0 for none
	unread   bool             // a ScaledObject that is known by its HPA only
	floored  bool             // its minimum was changed by flyball, which has not given it back
	adopted  bool             // it was taken out of charge, and not given back
}

func (o owner) String() string {
	kind := "HPA"
	if o.resource == scaledResource {
		kind = "ScaledObject"
	}
	return kind + " " + o.namespace + "/" + o.name
}

// neighbourhood is what the autoscalers of one namespace are.
type neighbourhood struct {
	turn   chan struct{} // of one; who has it has what follows. Many targets ask the cluster once, and none waits past its time
	owners []owner
	at     time.Time // when they were listed; zero for never
	err    error     // of the last list that was tried
	failed time.Time // when that was
}

// take waits for the turn.
func (n *neighbourhood) take(ctx context.Context) error {
	select {
	case n.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *neighbourhood) give() { <-n.turn }

const (
	// A look for autoscalers is a list of each kind in the namespace. One that appears is found by what observes within
	// observedFor, and by what acts within actedFor, so that a hundred targets that change at once list once.
	observedFor = 30 * time.Second
	actedFor    = 5 * time.Second
	// failedFor is how long a list that went wrong stands for those that many targets would have tried.
	failedFor = time.Second
	// lookTimeout keeps a list from delaying what is observed.
	lookTimeout = 2 * time.Second
	// keptFor is for namespaces that no rule names any more.
	keptFor = 10 * time.Minute
	// page is how many come in one answer, and pages how many answers are asked for: 10,000 autoscalers in a namespace.
	page, pages = 500, 20
)

// neighbours returns the autoscalers that have a target, as they were at most maxAge ago.
func (c *client) neighbours(ctx context.Context, r ref, found resource, maxAge time.Duration) ([]owner, error) {
	if r.resource == hpaResource || r.resource == scaledResource {
		return nil, nil
	}
	now := time.Now()
	c.mu.Lock()
	for namespace, n := range c.namespaces {
		if namespace == r.namespace {
			continue
		}
		select {
		case n.turn <- struct{}{}:
			if now.Sub(n.at) > keptFor {
				delete(c.namespaces, namespace)
			}
			n.give()
		default: // is listed just now
		}
	}
	n := c.namespaces[r.namespace]
	if n == nil {
		n = &neighbourhood{turn: make(chan struct{}, 1)}
		c.namespaces[r.namespace] = n
	}
	c.mu.Unlock()

	const what = "look for autoscalers of the same target: %w"
	if err := n.take(ctx); err != nil {
		return nil, fmt.Errorf(what, err)
	}
	defer n.give()
	if time.Since(n.at) > maxAge {
		if time.Since(n.failed) > failedFor {
			var all []owner
			if all, n.err = c.listOwners(ctx, r.namespace); n.err == nil {
				n.owners, n.at = all, time.Now()
			} else if !errors.Is(n.err, context.Canceled) {
				n.failed = time.Now()
			}
		}
		if n.err != nil {
			return nil, fmt.Errorf(what, n.err)
		}
	}
	var have []owner
	for _, o := range n.owners {
		if o.of == found.kind.GroupKind() && o.target == r.name {
			have = append(have, o)
		}
	}
	return have, nil
}

// relist has the autoscalers of a namespace listed again, after one was changed.
func (c *client) relist(ctx context.Context, namespace string) {
	c.mu.Lock()
	n := c.namespaces[namespace]
	c.mu.Unlock()
	if n != nil && n.take(ctx) == nil {
		n.at = time.Time{}
		n.give()
	}
}

// listOwners lists the ScaledObjects and the HPAs of a namespace. A ScaledObject's own HPA is no owner beside it.
func (c *client) listOwners(ctx context.Context, namespace string) ([]owner, error) {
	var all []owner
	scaled := map[string]bool{}
	found, err := c.find(ctx, scaledResource)
	if err != nil && !errors.Is(err, actuators.ErrUnknownTarget) {
		return nil, err
	}
	if err == nil {
		list, err := c.list(ctx, found.GroupVersionResource, ref{namespace: namespace, resource: scaledResource})
		if err != nil {
			return nil, err
		}
		for i := range list {
			scaled[list[i].GetName()] = true
			all = append(all, ownerOf(&list[i], scaledResource))
		}
	}
	list, err := c.list(ctx, hpas, ref{namespace: namespace, resource: hpaResource})
	if err != nil {
		return nil, err
	}
	for i := range list {
		o := ownerOf(&list[i], hpaResource)
		switch by := scaledBy(&list[i]); {
		case by == "":
			all = append(all, o)
		case !scaled[by]: // may not be listed
			o.resource, o.name, o.unread = scaledResource, by, true
			all = append(all, o)
		}
	}
	return all, nil
}

// scaledBy is the ScaledObject that an HPA was made by; empty for none.
func scaledBy(hpa *unstructured.Unstructured) string {
	for _, by := range hpa.GetOwnerReferences() {
		if by.Kind == "ScaledObject" && strings.HasPrefix(by.APIVersion, "keda.sh/") {
			return by.Name
		}
	}
	return ""
}

// list lists the objects of a namespace. What the Role does not give is not known, which is said once.
func (c *client) list(ctx context.Context, gvr schema.GroupVersionResource, r ref) ([]unstructured.Unstructured, error) {
	c.mu.Lock()
	tried := c.unread[r]
	c.mu.Unlock()
	if time.Since(tried) < forgetAfter {
		return nil, nil
	}
	var all []unstructured.Unstructured
	o := metav1.ListOptions{Limit: page}
	for n := 0; n == 0 || o.Continue != ""; n++ {
		if n == pages {
			return nil, fmt.Errorf("the namespace %s has more than %d %s", r.namespace, page*pages, r.resource)
		}
		list, err := c.objects.Resource(gvr).Namespace(r.namespace).List(ctx, o)
		if apierrors.IsNotFound(err) { // not served, or not any more
			return nil, nil
		}
		if apierrors.IsForbidden(err) {
			c.mu.Lock()
			said := c.unlisted[r]
			c.unlisted[r], c.unread[r] = true, time.Now()
			c.mu.Unlock()
			if !said {
				c.log.Warn("whether an autoscaler sets the size of the same targets is not known", "namespace", r.namespace, "err", c.explain(err, "list", r, ""))
			}
			return nil, nil
		}
		if err != nil {
			return nil, c.explain(err, "list", r, "")
		}
		all, o.Continue = append(all, list.Items...), list.GetContinue()
	}
	return all, nil
}

// ownerOf reads an HPA or a ScaledObject.
func ownerOf(object *unstructured.Unstructured, resource string) owner {
	o := owner{ref: ref{namespace: object.GetNamespace(), resource: resource, name: object.GetName()}}
	mark := func(name string) bool {
		_, there := object.GetAnnotations()[name]
		return there
	}
	o.floored, o.adopted = mark(MinReplicas), mark(Behavior) || mark(KEDAPaused)
	text := func(fields ...string) string {
		s, _, _ := unstructured.NestedString(object.Object, fields...)
		return s
	}
	o.target = text("spec", "scaleTargetRef", "name")
	group, _, grouped := strings.Cut(text("spec", "scaleTargetRef", "apiVersion"), "/")
	if !grouped { // v1, or none
		group = ""
	}
	o.of = schema.GroupKind{Group: group, Kind: text("spec", "scaleTargetRef", "kind")}
	if resource == scaledResource {
		if o.of.Kind == "" {
			o.of.Kind = "Deployment"
		}
		if text("spec", "scaleTargetRef", "apiVersion") == "" {
			o.of.Group = "apps"
		}
		_, at := object.GetAnnotations()[pausedAt]
		o.hands = !at && switchedOn(object, paused)
		return o
	}
	const disabled = "Disabled"
	o.hands = text("spec", "behavior", "scaleUp", "selectPolicy") == disabled && text("spec", "behavior", "scaleDown", "selectPolicy") == disabled
	o.min, o.max = bounds(object, resource)
	return o
}

// bounds are the minimum and the maximum of an HPA or a ScaledObject.
func bounds(object *unstructured.Unstructured, resource string) (least, most int) {
	field := func(unset int, name string) int {
		if n, there, _ := unstructured.NestedInt64(object.Object, "spec", name); there {
			return int(n)
		}
		return unset
	}
	if resource == scaledResource {
		return field(0, "minReplicaCount"), field(100, "maxReplicaCount")
	}
	return field(1, "minReplicas"), field(0, "maxReplicas")
}

// clear makes way for a change of a target that autoscalers have. Where one stays in charge, floor is it; else the target
// may be written to. known.mu is held.
func (k *Kubernetes) clear(ctx context.Context, c *client, t actuators.Target, r ref, change actuators.Change) (floor *owner, _ error) {
	found, err := c.find(ctx, r.resource)
	if err != nil {
		return nil, c.explain(err, "get", r, "")
	}
	all, err := c.neighbours(ctx, r, found, actedFor)
	if err != nil { // nothing was changed, for certain
		return nil, fmt.Errorf("%w: %w", actuators.ErrRefused, err)
	}
	how := c.config.ConflictOf(t.Name)
	if !change.DryRun {
		given, err := k.giveBack(ctx, c, t, all, how, false)
		if err != nil {
			return nil, err
		}
		if len(given) > 0 {
			if all, err = c.neighbours(ctx, r, found, actedFor); err != nil {
				return nil, fmt.Errorf("%w: %w", actuators.ErrRefused, err)
			}
		}
	}
	var inCharge []owner
	for _, o := range all {
		if !o.hands || o.adopted && how != ConflictAdopt {
			inCharge = append(inCharge, o)
		}
	}
	if len(inCharge) > 0 && (how == ConflictRefuse || how == ConflictFloor && len(inCharge) > 1) {
		return nil, fmt.Errorf("%w: %s: delete it, or say in actuators.kubernetes.conflict who is in charge", actuators.ErrOwned, ownersText(inCharge))
	}
	for _, o := range inCharge {
		if o.unread {
			return nil, fmt.Errorf("%w: %s, which cannot be read: a Role in the namespace %s needs the rule %s", actuators.ErrOwned, o, o.namespace,
				rule("list", ref{resource: scaledResource}, ""))
		}
		if how == ConflictFloor {
			return &o, nil
		}
	}
	// The controller keeps the size within an HPA's bounds whatever its behavior says, but for 0, which turns it off.
	for _, o := range all {
		if o.resource == hpaResource && change.To != 0 && (change.To < o.min || change.To > o.max) {
			return nil, fmt.Errorf("%w: %s keeps the size between its minReplicas, %d, and its maxReplicas, %d, even where its behavior is Disabled",
				actuators.ErrOutOfRange, o, o.min, o.max)
		}
	}
	for _, o := range inCharge {
		if err := k.adopt(ctx, c, t, o, change); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func ownersText(all []owner) string {
	var names []string
	for _, o := range all {
		names = append(names, o.String())
	}
	return strings.Join(names, ", ")
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// revise changes an autoscaler, if it is as it was read: edit says how, and with no operations that there is nothing to
// change. It reads it again while something else changes it.
func (c *client) revise(ctx context.Context, o owner, dryRun bool, edit func(*unstructured.Unstructured) ([]operation, error)) (changed bool, _ error) {
	gvr := hpas
	if o.resource != hpaResource {
		found, err := c.find(ctx, o.resource)
		if err != nil {
			return false, c.explain(err, "get", o.ref, "")
		}
		gvr = found.GroupVersionResource
	}
	objects := c.objects.Resource(gvr).Namespace(o.namespace)
	how := metav1.PatchOptions{FieldManager: fieldManager}
	if dryRun {
		how.DryRun = []string{metav1.DryRunAll}
	}
	for attempt := 0; ; attempt++ {
		now, err := objects.Get(ctx, o.name, metav1.GetOptions{})
		if err != nil {
			return false, c.explain(err, "get", o.ref, "")
		}
		operations, err := edit(now)
		if err != nil || len(operations) == 0 {
			return attempt > 0, err
		}
		text, err := json.Marshal(append([]operation{
			{"test", "/metadata/uid", now.GetUID()}, {"test", "/metadata/resourceVersion", now.GetResourceVersion()},
		}, operations...))
		if err != nil {
			return false, err
		}
		_, err = objects.Patch(ctx, o.name, types.JSONPatchType, text, how)
		if err == nil {
			return true, nil
		}
		if err = c.explain(err, "patch", o.ref, ""); !errors.Is(err, errStale) || attempt == conflicts {
			return false, err
		}
	}
}

// annotated is the operation that adds annotations to those of an object, and drops others.
func annotated(object *unstructured.Unstructured, add map[string]string, drop ...string) operation {
	all := maps.Clone(object.GetAnnotations())
	if all == nil {
		all = map[string]string{}
	}
	for _, name := range drop {
		delete(all, name)
	}
	maps.Copy(all, add)
	return operation{"add", "/metadata/annotations", all}
}

// adopt takes an autoscaler out of charge, by the means that it has for it.
func (k *Kubernetes) adopt(ctx context.Context, c *client, t actuators.Target, o owner, change actuators.Change) error {
	changed, err := c.revise(ctx, o, change.DryRun, func(now *unstructured.Unstructured) ([]operation, error) {
		if o.resource == scaledResource {
			if n, given := now.GetAnnotations()[pausedAt]; given {
				return nil, fmt.Errorf("%w: %s is to keep it at %s replicas: remove its annotation %s", actuators.ErrOwned, o, n, pausedAt)
			}
			before := now.GetAnnotations()[paused]
			if first, remembered := now.GetAnnotations()[KEDAPaused]; remembered {
				before = first
			}
			return []operation{annotated(now, map[string]string{paused: "true", KEDAPaused: before})}, nil
		}
		if ownerOf(now, hpaResource).hands {
			return nil, nil
		}
		behavior, there, err := unstructured.NestedMap(now.Object, "spec", "behavior")
		if err != nil {
			return nil, err
		}
		var before any
		if there {
			before = behavior
		}
		if text, remembered := now.GetAnnotations()[Behavior]; remembered { // somebody has put it half in charge again
			var first map[string]any
			if err := json.Unmarshal([]byte(text), &first); err != nil {
				return nil, fmt.Errorf("its annotation %s is no behavior: %w", Behavior, err)
			}
			if before, _ = enabled(now, first); len(before.(map[string]any)) == 0 {
				before = nil
			}
		}
		text, err := json.Marshal(before)
		if err != nil {
			return nil, err
		}
		if behavior == nil {
			behavior = map[string]any{}
		}
		for _, direction := range directions {
			if err := unstructured.SetNestedField(behavior, "Disabled", direction, "selectPolicy"); err != nil {
				return nil, err
			}
		}
		return []operation{{"add", "/spec/behavior", behavior}, annotated(now, map[string]string{Behavior: string(text)})}, nil
	})
	if err != nil || change.DryRun {
		return err
	}
	c.relist(ctx, o.namespace)
	if changed {
		how := "its behavior is Disabled in both directions; the annotation " + Behavior + " has what it was"
		if o.resource == scaledResource {
			how = "its annotation " + paused + " is true"
		}
		k.log.Info("an autoscaler was taken out of charge", "target", t.String(), "autoscaler", o.String(), "how", how)
	}
	return nil
}

// floor has an autoscaler keep a target at a size or above, between the minimum that it had at first, or that somebody else has set
// since, and its maximum.
// known.mu is held.
func (k *Kubernetes) floor(ctx context.Context, c *client, known *target, t actuators.Target, r ref, o owner, change actuators.Change) (_ actuators.Receipt, before *object, _ error) {
	now, err := c.read(ctx, r)
	if err != nil {
		return actuators.Receipt{}, nil, err
	}
	known.seen = now
	if change.IfVersion != "" && now.version() != change.IfVersion {
		return actuators.Receipt{}, now, conflict(change, now)
	}
	field := "minReplicas"
	if o.resource == scaledResource {
		field = "minReplicaCount"
	}
	to, most := 0, 0
	changed, err := c.revise(ctx, o, change.DryRun, func(autoscaler *unstructured.Unstructured) ([]operation, error) {
		var is int
		is, most = bounds(autoscaler, o.resource)
		_, given, _ := unstructured.NestedInt64(autoscaler.Object, "spec", field)
		least := is
		first, remembered := autoscaler.GetAnnotations()[MinReplicas]
		if remembered && !ours(autoscaler, "f:spec", "f:"+field) { // what somebody else has set since is what it was at first
			first, remembered = "", false
		}
		if remembered {
			least = 1
			if o.resource == scaledResource {
				least = 0
			}
			if n, err := strconv.Atoi(first); err == nil {
				least = n
			}
		} else if given {
			first = strconv.Itoa(is)
		}
		if to = max(least, min(change.To, most)); to == is {
			return nil, nil
		}
		do := []operation{{"add", "/spec/" + field, to}}
		if !remembered {
			do = append(do, annotated(autoscaler, map[string]string{MinReplicas: first}))
		}
		return do, nil
	})
	// What is asked for is no less than there is: to go down is up to the autoscaler.
	receipt := actuators.Receipt{Spec: max(now.spec, to), Version: now.version(), Changed: changed && !change.DryRun}
	if err != nil {
		return actuators.Receipt{}, now, err
	}
	if change.DryRun {
		receipt.Spec = now.spec
	}
	if change.To > most && !change.DryRun {
		k.log.Warn("a size is above the maximum of the autoscaler that is in charge of the target, which is the bound",
			"target", t.String(), "autoscaler", o.String(), "replicas", change.To, "max", most)
	}
	return receipt, now, nil
}

// gitOps are the managers by whose syncs a field becomes again what is in their sources. kubectl is one of them where it
// applies.
func gitOps(m metav1.ManagedFieldsEntry) bool {
	switch m.Manager {
	case "argocd-controller", "kustomize-controller", "helm-controller", "flux", "kubectl-client-side-apply":
		return true
	case "kubectl":
		return m.Operation == metav1.ManagedFieldsOperationApply
	}
	return false
}

// syncedBy is the manager that has an object's size in its sources; empty for none that is known.
func syncedBy(whole *unstructured.Unstructured) string {
	for _, m := range whole.GetManagedFields() {
		if m.Subresource != "" || m.FieldsV1 == nil || !gitOps(m) {
			continue
		}
		var fields struct {
			Spec map[string]json.RawMessage `json:"f:spec"`
		}
		text, err := m.FieldsV1.MarshalJSON()
		if err != nil || json.Unmarshal(text, &fields) != nil {
			continue
		}
		if _, owned := fields.Spec["f:replicas"]; owned {
			return m.Manager
		}
	}
	return ""
}
