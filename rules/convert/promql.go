package convert

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"flyball/rules"
	"flyball/rules/source"
)

// workload is what is scaled, as Prometheus sees its pods: by the names that cAdvisor and kube-state-metrics have, and the
// kubernetes-mixin uses.
type workload struct {
	namespace string
	owner     string // matchers of kube_pod_owner
	notes     []note
}

// workload finds how the pods of a target are told from others.
func (o *object) workload(ref *targetRef) *workload {
	w := &workload{namespace: o.Meta.Namespace}
	name := strings.ReplaceAll(regexp.QuoteMeta(ref.Name), `\`, `\\`)
	switch ref.Kind {
	case "Deployment", "Rollout": // by way of ReplicaSets, which have a hash after the name
		w.owner = fmt.Sprintf(`owner_kind="ReplicaSet",owner_name=~"%s-[a-z0-9]+"`, name)
	case "StatefulSet", "ReplicaSet", "ReplicationController":
		w.owner = fmt.Sprintf(`owner_kind="%s",owner_name="%s"`, ref.Kind, ref.Name)
	default:
		w.owner = fmt.Sprintf(`pod=~"%s-.+"`, name)
		w.notes = append(w.notes, say("Pods of a %s are told by their name alone, which is a guess: see that no other pod's begins with %s-.", ref.Kind, ref.Name))
	}
	return w
}

// ready are the workload's pods that are ready, each with the value 1.
func (w *workload) ready() string {
	return fmt.Sprintf(`group by (namespace, pod) (
    kube_pod_status_ready{namespace="%s",condition="true"} == 1
    and on (namespace, pod) kube_pod_owner{namespace="%[1]s",%s}
  )`, w.namespace, w.owner)
}

// join keeps the series of pods that are ready and the workload's.
func (w *workload) join() string {
	return "  * on (namespace, pod) group_left () " + w.ready()
}

// usage is how much of a resource the pods use, in cores or bytes.
func (w *workload) usage(resource, container string) string {
	matchers := fmt.Sprintf(`namespace="%s",container="%s"`, w.namespace, container)
	if container == "" {
		matchers = fmt.Sprintf(`namespace="%s",container!="",container!="POD"`, w.namespace)
	}
	used := "container_memory_working_set_bytes{" + matchers + "}"
	if resource == "cpu" {
		used = "rate(container_cpu_usage_seconds_total{" + matchers + "}[2m])"
	}
	return fmt.Sprintf("sum(\n  %s\n%s\n)", used, w.join())
}

// requests is how much of a resource the pods request.
func (w *workload) requests(resource, container string) string {
	matchers := fmt.Sprintf(`namespace="%s",resource="%s"`, w.namespace, resource)
	if container != "" {
		matchers += fmt.Sprintf(`,container="%s"`, container)
	}
	return fmt.Sprintf("sum(\n  kube_pod_container_resource_requests{%s}\n%s\n)", matchers, w.join())
}

var (
	metricForm = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	notInName  = regexp.MustCompile(`[^a-zA-Z0-9_]+`)
)

// series is a selector.
func series(name string, matchers ...string) string {
	if !metricForm.MatchString(name) {
		return "{" + strings.Join(append([]string{strconv.Quote(name)}, matchers...), ",") + "}"
	}
	if len(matchers) == 0 {
		return name
	}
	return name + "{" + strings.Join(matchers, ",") + "}"
}

// label is a label of Kubernetes as exporters write it for Prometheus.
func label(key string) string {
	name := notInName.ReplaceAllString(key, "_")
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// queryName makes a name for a query that the rule does not have yet.
func (r *rule) queryName(from string) string {
	name := strings.Trim(notInName.ReplaceAllString(from, "_"), "_")
	if len(name) > 100 {
		name = name[:100]
	}
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "metric_" + name
	}
	if !rules.IsQueryName(name) {
		name += "_value"
	}
	unique := name
	for i := 2; slices.ContainsFunc(r.queries, func(q query) bool { return q.name == unique }); i++ {
		unique = fmt.Sprintf("%s_%d", name, i)
	}
	return unique
}

// exprFault is what is wrong with an expression, and how many bytes into it.
type exprFault struct {
	message string
	offset  int
}

// checkQuery says what a rule would find wrong with a query.
func checkQuery(expr string) []exprFault {
	return check(expr, "{groups: [{name: g, rules: [{scale: s, target: {kind: k, name: n}, max: 1, signals: [{name: s, value: a, target_per_replica: 1}], queries: {a: {expr: ", "}}}]}]}")
}

// checkFormula says what a rule would find wrong with an expression of queries.
func checkFormula(formula string, queries []string) []exprFault {
	all := make([]string, len(queries))
	for i, name := range queries {
		all[i] = name + ": up"
	}
	return check(formula, "{groups: [{name: g, rules: [{scale: s, target: {kind: k, name: n}, max: 1, queries: {"+strings.Join(all, ", ")+"}, signals: [{name: s, target_per_replica: 1, value: ", "}]}]}]}")
}

func check(expr, before, after string) (all []exprFault) {
	quoted := quote(expr)
	_, err := (&rules.Reader{}).Parse("", []byte(before+quoted+after))
	faults, _ := errors.AsType[source.Errors](err)
	for _, fault := range faults {
		f := exprFault{message: strings.TrimPrefix(strings.TrimPrefix(fault.Message, "value: "), "expr: ")}
		if offset := fault.Column - 1 - len(before) - 1; quoted[0] == '\'' && !strings.Contains(expr, "'") && offset > 0 && offset <= len(expr) {
			f.offset = offset
		}
		all = append(all, f)
	}
	return all
}

// sortedKeys are the keys of a map in their order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
