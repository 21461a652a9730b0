package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"flyball/actuators"
)

// Release gives the autoscalers of a target back what floor and adopt took of them: an HPA its minReplicas and its behavior, a
// ScaledObject its minReplicaCount and KEDA's annotation paused, as flyball's annotations on them have it. It is for a target
// that no rule has any more; of others, the next change gives back what Config says no longer. What somebody else has changed
// since stays as it is. It returns what was done, or in a dry run would be, in words, one for each autoscaler; the error is
// one of the cluster.
func (k *Kubernetes) Release(ctx context.Context, t actuators.Target, dryRun bool) ([]string, error) {
	done, err := k.release(ctx, t, dryRun)
	if err != nil {
		return done, fmt.Errorf("release %s: %w", t, err)
	}
	return done, nil
}

func (k *Kubernetes) release(ctx context.Context, t actuators.Target, dryRun bool) ([]string, error) {
	c, known, r, err := k.begin(ctx, t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.limited(inLine(ctx, t.String()))
	defer cancel()
	known.mu.Lock()
	defer known.mu.Unlock()
	found, err := c.find(ctx, r.resource)
	if err != nil {
		return nil, c.explain(err, "get", r, "")
	}
	all, err := c.neighbours(ctx, r, found, 0)
	if err != nil {
		return nil, err
	}
	for _, resource := range []string{hpaResource, scaledResource} { // one that may not be listed is not known to have nothing
		of := ref{namespace: r.namespace, resource: resource}
		c.mu.Lock()
		unlisted := c.unlisted[of]
		c.mu.Unlock()
		if unlisted {
			return nil, refusal("forbidden: a Role in the namespace %s needs the rule %s", r.namespace, rule("list", of, ""))
		}
	}
	return k.giveBack(ctx, c, t, all, ConflictRefuse, dryRun)
}

// giveBack gives the autoscalers of a target back what was taken by other ways than the one that holds, and says what it did,
// one by one. known.mu is held.
func (k *Kubernetes) giveBack(ctx context.Context, c *client, t actuators.Target, all []owner, holds Conflict, dryRun bool) (given []string, _ error) {
	for _, o := range all {
		if floor, charge := o.floored && holds != ConflictFloor, o.adopted && holds != ConflictAdopt; floor || charge {
			var what string
			changed, err := c.revise(ctx, o, dryRun, func(now *unstructured.Unstructured) (operations []operation, err error) {
				operations, what, err = before(now, o.resource, floor, charge)
				return operations, err
			})
			if err != nil {
				return given, fmt.Errorf("give %s back as it was: %w", o, err)
			}
			if changed && what != "" {
				given = append(given, o.String()+": "+what)
				if !dryRun {
					k.log.Info("an autoscaler was given back", "target", t.String(), "autoscaler", o.String(), "how", what)
				}
			}
		}
	}
	if len(given) > 0 && !dryRun {
		for _, o := range all[:1] { // they are of one namespace
			c.relist(ctx, o.namespace)
		}
	}
	return given, nil
}

// before are the operations by which an autoscaler is as it was before its minimum was changed, or before it was taken out of
// charge, and what they do in words. What is another's since, by the object's managed fields, is left as it is; flyball's
// annotations go all the same.
func before(now *unstructured.Unstructured, resource string, floor, charge bool) (operations []operation, what string, _ error) {
	marks := now.GetAnnotations()
	set, drop := map[string]string{}, []string{}
	say := func(format string, args ...any) {
		if what != "" {
			what += ", "
		}
		what += fmt.Sprintf(format, args...)
	}
	const leftAs = "%s is left as somebody else has set it since"
	field := "minReplicas"
	if resource == scaledResource {
		field = "minReplicaCount"
	}
	if first, there := marks[MinReplicas]; there && floor {
		drop = append(drop, MinReplicas)
		n, err := strconv.Atoi(first)
		_, is, _ := unstructured.NestedInt64(now.Object, "spec", field)
		switch {
		case !ours(now, "f:spec", "f:"+field):
			say(leftAs, field)
		case err == nil:
			_, most := bounds(now, resource)
			n = min(n, most)
			operations = append(operations, operation{"add", "/spec/" + field, n})
			say("%s is %d, as it was", field, n)
		case is:
			operations = append(operations, operation{"remove", "/spec/" + field, nil})
			say("%s is not given, as it was", field)
		}
	}
	if text, there := marks[Behavior]; there && charge {
		drop = append(drop, Behavior)
		var behavior map[string]any
		if err := json.Unmarshal([]byte(text), &behavior); err != nil {
			return nil, "", fmt.Errorf("its annotation %s is no behavior: %w", Behavior, err)
		}
		next, others := enabled(now, behavior)
		_, is, _ := unstructured.NestedMap(now.Object, "spec", "behavior")
		switch {
		case len(others) == len(directions):
			say(leftAs, "behavior")
		case len(next) > 0:
			operations = append(operations, operation{"add", "/spec/behavior", next})
			if len(others) == 0 {
				say("behavior is as it was")
				break
			}
			for _, direction := range directions {
				if field := "behavior." + direction; slices.Contains(others, direction) {
					say(leftAs, field)
				} else {
					say("%s is as it was", field)
				}
			}
		case is:
			operations = append(operations, operation{"remove", "/spec/behavior", nil})
			say("behavior is not given, as it was")
		}
	}
	if first, there := marks[KEDAPaused]; there && charge {
		drop = append(drop, KEDAPaused)
		switch {
		case !ours(now, "f:metadata", "f:annotations", "f:"+paused):
			say(leftAs, "the annotation "+paused)
		case first == "":
			drop = append(drop, paused)
			say("the annotation %s is removed", paused)
		default:
			set[paused] = first
			say("the annotation %s is %q, as it was", paused, first)
		}
	}
	if len(drop) == 0 {
		return nil, "", nil
	}
	return append(operations, annotated(now, set, drop...)), what, nil
}

// directions are the keys of an HPA's behavior.
var directions = []string{"scaleUp", "scaleDown"}

// enabled is the behavior that an HPA gets whose directions flyball has disabled, with selectPolicy as it was before: the rest of
// a direction is as it is now, and a direction whose selectPolicy is another's since is left as it is, as others says.
func enabled(now *unstructured.Unstructured, before map[string]any) (behavior map[string]any, others []string) {
	behavior, _, _ = unstructured.NestedMap(now.Object, "spec", "behavior")
	for _, direction := range directions {
		is, _, _ := unstructured.NestedString(behavior, direction, "selectPolicy")
		was, _, _ := unstructured.NestedString(before, direction, "selectPolicy")
		of := []string{"f:spec", "f:behavior", "f:" + direction}
		if !ours(now, append(of, "f:selectPolicy")...) {
			if is != was {
				others = append(others, direction)
			}
			continue
		}
		to, _ := behavior[direction].(map[string]any)
		switch _, had := before[direction]; {
		case was != "" && to != nil:
			to["selectPolicy"] = was
		case !had && !has(now, func(manager string) bool { return manager != fieldManager }, of...):
			delete(behavior, direction)
		default:
			delete(to, "selectPolicy")
		}
	}
	return behavior, others
}

// ours says whether a field was last changed by flyball, as the object's managed fields have it.
func ours(object *unstructured.Unstructured, path ...string) bool {
	return has(object, func(manager string) bool { return manager == fieldManager }, path...)
}

// has says whether a field, or one below it, is managed by one of those who are meant.
func has(object *unstructured.Unstructured, meant func(manager string) bool, path ...string) bool {
	for _, m := range object.GetManagedFields() {
		if !meant(m.Manager) || m.Subresource != "" || m.FieldsV1 == nil {
			continue
		}
		text, err := m.FieldsV1.MarshalJSON()
		if err != nil {
			continue
		}
		var at any
		if json.Unmarshal(text, &at) != nil {
			continue
		}
		there := true
		for _, field := range path {
			fields, _ := at.(map[string]any)
			if at, there = fields[field]; !there {
				break
			}
		}
		if there {
			return true
		}
	}
	return false
}
