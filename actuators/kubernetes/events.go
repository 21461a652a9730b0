package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"flyball/actuators"
)

// Reasons of Events.
const (
	reasonScaled  = "FlyballScaled"
	reasonBlocked = "FlyballBlocked"
	reasonHeld    = "FlyballHeld"
	reasonSynced  = "FlyballSynced" // a GitOps manager's syncs put the size back
)

// LastDecision is the annotation with the last change that was carried out.
const LastDecision = "flyball/last-decision"

// PausedBy is the annotation by which people have an object left as it is: "true", or what else is not false, as KEDA reads its
// autoscaling.keda.sh/paused.
const PausedBy = "flyball/paused"

// told is what was told last on a target's object. What happens again is told by the same Event, as one more of a series.
type told struct {
	what   string    // the reason and what was the matter
	event  string    // the name of the Event
	first  time.Time // when it was made
	count  int32     // how often it has happened
	latest time.Time // when the Event said so last
}

const (
	// retold is how often at most an Event says that what it tells goes on: a rule tries again at each evaluation.
	retold = 5 * time.Minute
	// eventLife is how long the apiserver keeps Events, as it is usually set.
	eventLife = time.Hour
	// tellTimeout keeps Events from delaying what follows a change. They are worth no more.
	tellTimeout = 2 * time.Second
)

// tell has a change, or why there was none, told on the object. known.mu is held. That it cannot be told is in the log, once.
// It returns the object as it is then, where that was written to.
func (k *Kubernetes) tell(ctx context.Context, c *client, known *target, t actuators.Target, r ref, before *object, change actuators.Change, receipt actuators.Receipt, err error) *object {
	if before == nil || err == nil && !receipt.Changed || errors.Is(err, context.Canceled) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	defer cancel()
	complain := func(what string, err error) { k.complain(c, t, what, err) }
	if c.config.Events {
		reason, kind := reasonScaled, "Normal"
		note := fmt.Sprintf("%d to %d replicas: %s", before.spec, change.To, change.Reason)
		class := note
		if err != nil {
			reason, kind = reasonBlocked, "Warning"
			note = fmt.Sprintf("not from %d to %d replicas (%s): %v", before.spec, change.To, change.Reason, err)
			class = classOf(err)
		}
		if err := k.event(ctx, c, known, r, before, reason, kind, class, note); err != nil {
			complain("Event", c.explainEvent(err, r))
		}
	}
	if c.config.Events && known.synced.by != "" && !known.synced.told {
		note := fmt.Sprintf("%s has the size in its sources, and its syncs put it back: %s", known.synced.by, syncedHint)
		if _, err := k.create(ctx, c, r, before, reasonSynced, "Warning", note); err != nil {
			complain("Event", c.explainEvent(err, r))
		}
		known.synced.told = true
	}
	if c.config.Annotate && err == nil {
		now, err := c.annotate(ctx, r, known.seen, before.spec, change)
		if err == nil {
			return now
		}
		complain("annotation", c.explain(err, "patch", r, ""))
	}
	return nil
}

func (k *Kubernetes) complain(c *client, t actuators.Target, what string, err error) {
	if !c.complained.Swap(true) {
		k.log.Warn("what was done cannot be told on its object; further ones are not logged", "what", what, "target", t.String(), "err", err)
	}
}

// TellHeld implements actuators.Teller by an Event FlyballHeld on the object, as it was last observed.
func (k *Kubernetes) TellHeld(ctx context.Context, t actuators.Target, reason, note string) {
	c, known, r, err := k.begin(ctx, t)
	if err != nil || !c.config.Events {
		return
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.seen == nil {
		return
	}
	ctx, cancel := context.WithTimeout(inLine(context.WithoutCancel(ctx), t.String()), tellTimeout)
	defer cancel()
	if err := k.event(ctx, c, known, r, known.seen, reasonHeld, "Warning", reason, note); err != nil {
		k.complain(c, t, "Event", c.explainEvent(err, r))
	}
}

// event makes an Event, or has that of before, if it was of the same reason and class, say that it happened again.
func (k *Kubernetes) event(ctx context.Context, c *client, known *target, r ref, on *object, reason, kind, class, note string) error {
	now := time.Now()
	what := reason + " " + class
	events := c.objects.Resource(eventsv1.SchemeGroupVersion.WithResource("events")).Namespace(r.namespace)
	last := &known.told
	if last.what == what && now.Sub(last.first) < eventLife {
		last.count++
		if now.Sub(last.latest) < retold {
			return nil
		}
		patch, err := json.Marshal(map[string]any{"series": eventsv1.EventSeries{Count: last.count, LastObservedTime: metav1.NewMicroTime(now)}})
		if err != nil {
			return err
		}
		if _, err = events.Patch(ctx, last.event, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err == nil {
			last.latest = now
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	name, err := k.create(ctx, c, r, on, reason, kind, note)
	if err != nil {
		return err
	}
	*last = told{what: what, event: name, first: now, count: 1, latest: now}
	return nil
}

// create makes an Event on an object, and returns its name.
func (k *Kubernetes) create(ctx context.Context, c *client, r ref, on *object, reason, kind, note string) (string, error) {
	now := time.Now()
	event := &eventsv1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", r.name, now.UnixNano()), Namespace: r.namespace},
		EventTime:  metav1.NewMicroTime(now), ReportingController: fieldManager, ReportingInstance: k.opts.Instance,
		Action: "Scale", Reason: reason, Type: kind, Note: shortened(note),
	}
	event.Regarding.APIVersion, event.Regarding.Kind = on.resource.kind.ToAPIVersionAndKind()
	event.Regarding.Namespace, event.Regarding.Name, event.Regarding.UID = r.namespace, r.name, on.uid
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(event)
	if err != nil {
		return "", err
	}
	_, err = c.objects.Resource(eventsv1.SchemeGroupVersion.WithResource("events")).Namespace(r.namespace).
		Create(ctx, &unstructured.Unstructured{Object: fields}, metav1.CreateOptions{FieldManager: fieldManager})
	return event.Name, err
}

// longestNote is how many bytes of a note an apiserver takes.
const longestNote = 1024

// shortened cuts a note that is too long, and no character of it in two: each half would be sent as three bytes.
func shortened(note string) string {
	if len(note) <= longestNote {
		return note
	}
	const more = "..."
	return strings.ToValidUTF8(note[:longestNote-len(more)], "") + more
}

// classOf is what was the matter, without the numbers that differ from one time to the next.
func classOf(err error) string {
	for _, class := range []error{actuators.ErrConflict, errStale, actuators.ErrOutOfRange, actuators.ErrUnknownTarget, actuators.ErrOwned, context.DeadlineExceeded} {
		if errors.Is(err, class) {
			return class.Error()
		}
	}
	return err.Error()
}

func (c *client) explainEvent(err error, r ref) error {
	return c.explain(err, "create", ref{namespace: r.namespace, resource: "events.events.k8s.io"}, "")
}

// annotate writes down a change on its object, and returns that as it is then: an annotation counts as another generation.
func (c *client) annotate(ctx context.Context, r ref, now *object, from int, change actuators.Change) (*object, error) {
	text, err := json.Marshal(map[string]any{
		"id": change.DecisionID, "from": from, "to": change.To, "reason": change.Reason, "time": time.Now().UTC().Format(time.RFC3339),
	})
	if err != nil {
		return nil, err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{LastDecision: string(text)}}})
	if err != nil {
		return nil, err
	}
	whole, err := c.objects.Resource(now.resource.GroupVersionResource).Namespace(r.namespace).
		Patch(ctx, r.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return nil, err
	}
	annotated := *now
	annotated.resourceVersion = whole.GetResourceVersion()
	if now.generation != 0 {
		annotated.generation = whole.GetGeneration()
	}
	return &annotated, nil
}
