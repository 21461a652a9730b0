package convert

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// hpaSpec is the spec of a HorizontalPodAutoscaler, of autoscaling/v2 and of v1.
type hpaSpec struct {
	ScaleTargetRef targetRef `yaml:"scaleTargetRef"`
	MinReplicas    *int      `yaml:"minReplicas"`
	MaxReplicas    int       `yaml:"maxReplicas"`
	Metrics        []metric  `yaml:"metrics"`
	Behavior       *behavior `yaml:"behavior"`
	TargetCPU      *int      `yaml:"targetCPUUtilizationPercentage"` // v1
}

// metric is one that an HPA looks at.
type metric struct {
	Type              string          `yaml:"type"`
	Resource          *resourceMetric `yaml:"resource"`
	ContainerResource *resourceMetric `yaml:"containerResource"`
	Pods              *customMetric   `yaml:"pods"`
	Object            *customMetric   `yaml:"object"`
	External          *customMetric   `yaml:"external"`
}

type resourceMetric struct {
	Name      string       `yaml:"name"`
	Container string       `yaml:"container"`
	Target    metricTarget `yaml:"target"`
}

type customMetric struct {
	DescribedObject targetRef    `yaml:"describedObject"`
	Metric          metricName   `yaml:"metric"`
	Target          metricTarget `yaml:"target"`
}

type metricName struct {
	Name     string         `yaml:"name"`
	Selector *labelSelector `yaml:"selector"`
}

type labelSelector struct {
	MatchLabels      map[string]string `yaml:"matchLabels"`
	MatchExpressions []struct {
		Key      string   `yaml:"key"`
		Operator string   `yaml:"operator"`
		Values   []string `yaml:"values"`
	} `yaml:"matchExpressions"`
}

type metricTarget struct {
	Type               string    `yaml:"type"`
	AverageUtilization *int      `yaml:"averageUtilization"`
	AverageValue       *quantity `yaml:"averageValue"`
	Value              *quantity `yaml:"value"`
}

// behavior is how fast an HPA goes.
type behavior struct {
	ScaleUp   *scalingRules `yaml:"scaleUp"`
	ScaleDown *scalingRules `yaml:"scaleDown"`
}

type scalingRules struct {
	StabilizationWindowSeconds *int            `yaml:"stabilizationWindowSeconds"`
	SelectPolicy               string          `yaml:"selectPolicy"`
	Policies                   []scalingPolicy `yaml:"policies"`
	Tolerance                  *quantity       `yaml:"tolerance"`
}

type scalingPolicy struct {
	Type          string `yaml:"type"`
	Value         int    `yaml:"value"`
	PeriodSeconds int    `yaml:"periodSeconds"`
}

// quantity is a number as Kubernetes writes it: 500m, 1Gi, 2e3.
type quantity float64

var quantityForm = regexp.MustCompile(`^([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|([numkMGTPE]|[KMGTPE]i))?$`)

// DecodeNode takes the text of a quantity, quoted or not.
func (q *quantity) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	v, ok := parseQuantity(n.Value)
	if n.Kind != yaml.ScalarNode || !ok {
		d.Fault(n, "%s: %q is not a quantity: expected a number such as 10, 500m or 2Gi", path, n.Value)
		return
	}
	*q = quantity(v)
}

func parseQuantity(text string) (float64, bool) {
	if len(text) > 64 {
		return 0, false
	}
	m := quantityForm.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(m[1]+m[2], 64)
	switch suffix := m[3]; {
	case err != nil:
		return 0, false
	case suffix == "n":
		v /= 1e9
	case suffix == "u":
		v /= 1e6
	case suffix == "m":
		v /= 1e3
	case len(suffix) == 2:
		v *= math.Pow(1024, float64(1+strings.Index("KMGTPE", suffix[:1])))
	case suffix != "":
		v *= math.Pow(1000, float64(1+strings.Index("kMGTPE", suffix)))
	}
	return v, !math.IsInf(v, 0)
}

// What the controller does where an HPA says nothing: the defaults of kube-controller-manager's flags
// --horizontal-pod-autoscaler-tolerance and --horizontal-pod-autoscaler-downscale-stabilization, and those of the API.
const (
	defaultTolerance     = 0.1
	defaultDownWindow    = 300 // seconds
	defaultPolicyPeriod  = 15  // seconds
	defaultUpReplicas    = 4
	defaultUtilization   = 80        // percent, of cpu
	mostReplicas         = 1_000_000 // that a rule takes
	legacyUpLimitMinimum = 4
)

func convertHPA(o *object) (*rule, error) {
	var spec hpaSpec
	switch o.APIVersion {
	case "autoscaling/v1", "autoscaling/v2", "autoscaling/v2beta2":
	default:
		o.fault("apiVersion", "apiVersion is %q: expected autoscaling/v2 or v1: kubectl get hpa.v2.autoscaling %s -o yaml has it", o.APIVersion, o.Meta.Name)
		return nil, nil
	}
	if !o.decode(&spec) {
		return nil, nil
	}
	r := &rule{interval: say("The controller looks as often (--horizontal-pod-autoscaler-sync-period).")}
	target, notes, err := o.target(&spec.ScaleTargetRef)
	if err != nil {
		return nil, nil // told as a fault of the file
	}
	r.target, r.targetNotes = target, notes
	r.notes = o.annotations()
	if spec.MinReplicas == nil {
		spec.MinReplicas = new(int)
		*spec.MinReplicas = 1
		r.boundNotes = append(r.boundNotes, say("spec.minReplicas is not given: 1. spec.maxReplicas as it is."))
	} else {
		r.boundNotes = append(r.boundNotes, say("spec.minReplicas and spec.maxReplicas as they are."))
	}
	r.min, r.max = *spec.MinReplicas, spec.MaxReplicas
	o.bounds("spec.minReplicas", "spec.maxReplicas", r.min, r.max)
	if r.min == 0 {
		r.boundNotes = append(r.boundNotes, say("minReplicas 0 takes the HPA's feature gate HPAScaleToZero; here it takes none."))
	}
	up, down := o.behavior(r, "spec.behavior", spec.Behavior)
	if o.APIVersion == "autoscaling/v1" && len(spec.Metrics) > 0 {
		o.fault("spec.metrics", "spec.metrics: autoscaling/v1 has none: is it apiVersion: autoscaling/v2?")
	}
	if spec.TargetCPU != nil && o.APIVersion != "autoscaling/v1" {
		o.fault("spec.targetCPUUtilizationPercentage", "spec.targetCPUUtilizationPercentage: it is of autoscaling/v1: %s has metrics", o.APIVersion)
	}
	path := "spec.metrics"
	switch {
	case len(spec.Metrics) > 0:
	case spec.TargetCPU != nil:
		path = "spec.targetCPUUtilizationPercentage"
		spec.Metrics = cpuAt(*spec.TargetCPU)
	default:
		path = ""
		spec.Metrics = cpuAt(defaultUtilization)
	}
	w := o.workload(&spec.ScaleTargetRef)
	for i := range spec.Metrics {
		at, first := fmt.Sprintf("spec.metrics[%d]", i), note{}
		switch path {
		case "":
			first = say("spec.metrics is not given: cpu at %d %% of what is requested, as the API sets it.", defaultUtilization)
			at = "spec"
		case "spec.targetCPUUtilizationPercentage":
			at, first = path, say("%s: cpu at so much of what is requested.", path)
		}
		m := &measure{object: o, rule: r, workload: w, path: at, up: up, down: down}
		if first.text != "" {
			m.notes = append(m.notes, first)
		}
		m.convert(&spec.Metrics[i])
	}
	return r, nil
}

func cpuAt(percent int) []metric {
	return []metric{{Type: "Resource", Resource: &resourceMetric{Name: "cpu", Target: metricTarget{Type: "Utilization", AverageUtilization: &percent}}}}
}

// annotations are those that change what the object does.
func (o *object) annotations() (notes []note) {
	for _, key := range []string{"autoscaling.alpha.kubernetes.io/metrics", "autoscaling.alpha.kubernetes.io/behavior"} {
		if o.Meta.Annotations[key] != "" && o.APIVersion == "autoscaling/v1" {
			notes = append(notes, lost("the annotation %s has what autoscaling/v1 has no field for: convert the object in its v2 form, which kubectl get hpa.v2.autoscaling %s -o yaml gives.", key, o.Meta.Name))
		}
	}
	return notes
}

// bounds sees that there can be such a rule.
func (o *object) bounds(minPath, maxPath string, least, most int) {
	switch {
	case most < 1 || most > mostReplicas:
		o.fault(maxPath, "%s is %d: expected 1 to %d", maxPath, most, mostReplicas)
	case least < 0 || least > most:
		o.fault(minPath, "%s is %d: expected 0 to %s, which is %d", minPath, least, maxPath, most)
	}
}

// behavior converts how fast an HPA goes, and returns its tolerances.
func (o *object) behavior(r *rule, path string, b *behavior) (up, down float64) {
	r.up = direction{selects: "max", policies: []policy{{percent: 100, period: defaultPolicyPeriod}, {replicas: defaultUpReplicas, period: defaultPolicyPeriod}}}
	r.down = direction{selects: "max", window: defaultDownWindow, policies: []policy{{percent: 100, period: defaultPolicyPeriod}}}
	if b == nil {
		o.withoutBehavior(r, path)
		return defaultTolerance, defaultTolerance
	}
	up = o.direction(&r.up, path+".scaleUp", b.ScaleUp)
	down = o.direction(&r.down, path+".scaleDown", b.ScaleDown)
	return up, down
}

// withoutBehavior is what the controller does for an HPA that has no behavior at all, which is not what the API's reference
// gives as its defaults: it goes up to at most twice the size or to 4, whichever is more.
func (o *object) withoutBehavior(r *rule, path string) {
	r.up.notes = append(r.up.notes, say("%s is not given: up at once, at each look to at most twice the size or to %d, whichever is more.", path, legacyUpLimitMinimum),
		say("While going up is limited that way, the HPA goes on to the highest size of the last 5m; a rule to what is needed now."))
	r.down.notes = append(r.down.notes, say("Down at once to the highest size that the last 5m needed (--horizontal-pod-autoscaler-downscale-stabilization)."))
	if o.Kind == scaledObjectKind || r.min > 0 { // from 0 another bound holds, or there is no such size
		r.up.policies[1].replicas = legacyUpLimitMinimum - 1
	}
	limit := func(cond string, most int) {
		if r.max > most && r.min <= most {
			r.constraints = append(r.constraints, constraint{cond: cond, max: &most, reason: "the HPA doubles, or goes to 4"})
		}
	}
	if r.min < 3 {
		limit("replicas < 3", legacyUpLimitMinimum)
	}
	if r.up.policies[1].replicas == defaultUpReplicas {
		limit("replicas == 3", 6)
	}
}

// direction converts one way of a behavior and returns its tolerance.
func (o *object) direction(to *direction, path string, s *scalingRules) float64 {
	if s == nil {
		to.notes = append(to.notes, say("%s is not given: the API's defaults.", path))
		return defaultTolerance
	}
	given := []string{}
	if w := s.StabilizationWindowSeconds; w != nil {
		if *w < 0 || *w > 3600 {
			o.fault(path+".stabilizationWindowSeconds", "%s.stabilizationWindowSeconds is %d: expected 0 to 3600", path, *w)
		}
		to.window = *w
		given = append(given, "stabilizationWindowSeconds")
	}
	if s.Policies != nil {
		to.policies = nil
		given = append(given, "policies")
	}
	for i, p := range s.Policies {
		at := fmt.Sprintf("%s.policies[%d]", path, i)
		if p.PeriodSeconds < 1 || p.PeriodSeconds > 1800 {
			o.fault(at+".periodSeconds", "%s.periodSeconds is %d: expected 1 to 1800", at, p.PeriodSeconds)
		}
		if p.Value < 1 || p.Value > math.MaxInt32 {
			o.fault(at+".value", "%s.value is %d: expected more than 0", at, p.Value)
		}
		switch p.Type {
		case "Pods":
			to.policies = append(to.policies, policy{replicas: p.Value, period: p.PeriodSeconds})
		case "Percent":
			to.policies = append(to.policies, policy{percent: p.Value, period: p.PeriodSeconds})
		default:
			o.fault(at+".type", "%s.type is %q: expected Pods or Percent%s", at, p.Type, source.DidYouMean(p.Type, []string{"Pods", "Percent"}))
		}
	}
	switch s.SelectPolicy {
	case "", "Max":
	case "Min", "Disabled":
		to.selects = strings.ToLower(s.SelectPolicy)
		given = append(given, "selectPolicy")
	default:
		o.fault(path+".selectPolicy", "%s.selectPolicy is %q: expected Max, Min or Disabled%s", path, s.SelectPolicy, source.DidYouMean(s.SelectPolicy, []string{"Max", "Min", "Disabled"}))
	}
	tolerance := defaultTolerance
	if t := s.Tolerance; t != nil {
		if *t < 0 {
			o.fault(path+".tolerance", "%s.tolerance is %g: expected 0 or more", path, float64(*t))
		}
		tolerance = float64(*t)
		to.notes = append(to.notes, say("%s.tolerance is with the signals.", path))
	}
	if len(given) == 0 {
		to.notes = append(to.notes, say("%s: the API's defaults.", path))
	} else {
		to.notes = append(to.notes, say("%s: %s as given; the rest is the API's default.", path, strings.Join(given, ", ")))
	}
	return tolerance
}

// measure converts one metric of an HPA.
type measure struct {
	*object
	rule     *rule
	workload *workload
	path     string
	up, down float64 // tolerances
	notes    []note
}

// metricTypes are the types of metrics, with the key of each.
var metricTypes = []string{"Resource", "ContainerResource", "Pods", "Object", "External"}

func (m *measure) convert(from *metric) {
	given := map[string]bool{
		"Resource": from.Resource != nil, "ContainerResource": from.ContainerResource != nil, "Pods": from.Pods != nil,
		"Object": from.Object != nil, "External": from.External != nil,
	}
	if !slices.Contains(metricTypes, from.Type) {
		m.fault(m.path+".type", "%s.type is %q: expected %s%s", m.path, from.Type, strings.Join(metricTypes, ", "), source.DidYouMean(from.Type, metricTypes))
		return
	}
	key := strings.ToLower(from.Type[:1]) + from.Type[1:]
	if !given[from.Type] {
		m.fault(m.path, "%s.%s: missing: it goes with type %s", m.path, key, from.Type)
		return
	}
	if m.path != "spec" && !strings.HasPrefix(m.path, "spec.target") {
		m.path += "." + key
	}
	switch from.Type {
	case "Resource":
		m.resource(from.Resource, "")
	case "ContainerResource":
		if !dnsName.MatchString(from.ContainerResource.Container) {
			m.fault(m.path+".container", "%s.container is %q: expected the name of a container", m.path, from.ContainerResource.Container)
			return
		}
		m.resource(from.ContainerResource, from.ContainerResource.Container)
	case "Pods":
		m.pods(from.Pods)
	case "Object":
		m.described(from.Object)
	case "External":
		m.external(from.External)
	}
}

// target sees which of the ways to give a target there is, among those that the metric can have.
func (m *measure) target(t *metricTarget, allowed ...string) (kind string, v float64, ok bool) {
	at := m.path + ".target"
	if !slices.Contains(allowed, t.Type) {
		m.fault(at+".type", "%s.type is %q: expected %s%s", at, t.Type, strings.Join(allowed, " or "), source.DidYouMean(t.Type, allowed))
		return "", 0, false
	}
	key := map[string]string{"Utilization": "averageUtilization", "AverageValue": "averageValue", "Value": "value"}[t.Type]
	var q *quantity
	switch t.Type {
	case "Utilization":
		if t.AverageUtilization != nil {
			q = new(quantity)
			*q = quantity(*t.AverageUtilization)
		}
	case "AverageValue":
		q = t.AverageValue
	default:
		q = t.Value
	}
	switch {
	case q == nil:
		m.fault(at, "%s.%s: missing: it goes with type %s", at, key, t.Type)
		return "", 0, false
	case *q <= 0:
		m.fault(at+"."+key, "%s.%s is %s: expected more than 0", at, key, number(float64(*q)))
		return "", 0, false
	}
	return t.Type, float64(*q), true
}

// resource converts cpu and memory.
func (m *measure) resource(from *resourceMetric, container string) {
	if from.Name != "cpu" && from.Name != "memory" {
		m.fault(m.path+".name", "%s.name is %q: expected cpu or memory", m.path, from.Name)
		return
	}
	kind, v, ok := m.target(&from.Target, "Utilization", "AverageValue")
	if !ok {
		return
	}
	m.addResource(from.Name, container, kind, v)
}

// addResource adds the query and the signal for cpu or memory, at a percentage of what is requested or a mean for each pod.
func (m *measure) addResource(resource, container, kind string, v float64) {
	q := query{name: m.rule.queryName(strings.TrimSuffix(resource+"_"+container, "_"))}
	what := resource
	if container != "" {
		what += " of container " + container
	}
	s := signal{}
	if kind == "Utilization" {
		q.expr = m.workload.usage(resource, container) + "\n/\n" + m.workload.requests(resource, container)
		q.notes = append(slices.Clip(m.notes), say("%s: %s, as a share of what the pods request. There must be cAdvisor's series of the kubelets and kube-state-metrics'.", m.path, what))
		s.utilization, s.value = v/100, q.name
		if v > 100 { // a utilization is at most 1
			s.utilization, s.value = 1, fmt.Sprintf("%s / %s", q.name, number(v/100))
		}
		s.notes = append(s.notes, say("averageUtilization: %s. A pod that requests none is an error for the HPA; here its usage counts.", number(v)))
	} else {
		q.expr = m.workload.usage(resource, container)
		q.notes = append(slices.Clip(m.notes), say("%s: %s of all pods. There must be cAdvisor's series of the kubelets and kube-state-metrics'.", m.path, what))
		s.perReplica, s.value = v, q.name
		s.notes = append(s.notes, say("averageValue for each pod: the sum over all of them, divided by it."))
	}
	q.notes = append(q.notes, m.workload.notes...)
	m.add(q, s)
}

// pods converts a metric that each pod has.
func (m *measure) pods(from *customMetric) {
	_, v, ok := m.target(&from.Target, "AverageValue")
	selector, named := m.selector(&from.Metric, `namespace=`+strconv.Quote(m.Meta.Namespace))
	if !ok || !named {
		return
	}
	q := query{name: m.rule.queryName(from.Metric.Name), expr: fmt.Sprintf("sum(\n  %s\n%s\n)", selector, m.workload.join())}
	q.notes = append(q.notes, say("%s: %s of all pods. The HPA has it from the adapter of custom.metrics.k8s.io, whose rules cannot be known here: this is the series of that name. If the adapter makes it of another one, such as a rate of a counter, write that query.", m.path, from.Metric.Name))
	q.notes = append(q.notes, m.workload.notes...)
	m.add(q, signal{perReplica: v, value: q.name, notes: []note{say("averageValue for each pod: the sum over all of them, divided by it.")}})
}

// described converts a metric of another object.
func (m *measure) described(from *customMetric) {
	kind, v, ok := m.target(&from.Target, "Value", "AverageValue")
	ref := from.DescribedObject
	for _, n := range []struct {
		key, value string
		form       *regexp.Regexp
	}{{"kind", ref.Kind, kindName}, {"name", ref.Name, dnsName}} {
		if !n.form.MatchString(n.value) {
			at := m.path + ".describedObject." + n.key
			m.fault(at, "%s is %q: expected the %s of an object", at, n.value, n.key)
			ok = false
		}
	}
	label := strings.ToLower(ref.Kind)
	selector, named := m.selector(&from.Metric, `namespace=`+strconv.Quote(m.Meta.Namespace), label+"="+strconv.Quote(ref.Name))
	if !ok || !named {
		return
	}
	q := query{name: m.rule.queryName(from.Metric.Name), expr: "sum(" + selector + ")"}
	q.notes = append(q.notes, say("%s: %s of %s %s. The HPA has it from the adapter of custom.metrics.k8s.io, whose rules cannot be known here: this is the series of that name with the label %s, as prometheus-adapter has it unless told otherwise.", m.path, from.Metric.Name, ref.Kind, ref.Name, label))
	m.addValue(q, kind, v)
}

// external converts a metric of no object.
func (m *measure) external(from *customMetric) {
	kind, v, ok := m.target(&from.Target, "Value", "AverageValue")
	selector, named := m.selector(&from.Metric)
	if !ok || !named {
		return
	}
	q := query{name: m.rule.queryName(from.Metric.Name), expr: "sum(" + selector + ")"}
	q.notes = append(q.notes, say("%s: %s. The HPA has it from the adapter of external.metrics.k8s.io, whose rules cannot be known here: this is the sum of the series of that name and selector. If the adapter makes it of another one, write that query.", m.path, from.Metric.Name))
	m.addValue(q, kind, v)
}

// addValue adds a metric that is one value for the whole target.
func (m *measure) addValue(q query, kind string, v float64) {
	s := signal{perReplica: v, value: q.name, notes: []note{say("averageValue: the value divided by it.")}}
	if kind == "Value" {
		s = signal{utilization: 1, value: fmt.Sprintf("%s / %s", q.name, number(v)), notes: []note{
			say("value: the ready replicas times the value, divided by %s. More replicas lead to more still unless they make the value smaller.", number(v)),
		}}
	}
	m.add(q, s)
}

// add adds a query and the signal that uses it, unless the query is not right.
func (m *measure) add(q query, s signal) {
	if faults := checkQuery(q.expr); faults != nil {
		m.fault(m.path, "%s: no PromQL can be made of it: %s", m.path, faults[0].message)
		return
	}
	s.name = q.name
	s.tolerate(m.up, m.down)
	m.rule.queries = append(m.rule.queries, q)
	m.rule.signals = append(m.rule.signals, s)
}

// selector is the PromQL selector of a metric's series, with matchers beside those of its own selector.
func (m *measure) selector(from *metricName, matchers ...string) (string, bool) {
	at := m.path + ".metric"
	if from.Name == "" {
		m.fault(at, "%s.name: missing", at)
		return "", false
	}
	if s := from.Selector; s != nil {
		more, fault := s.matchers()
		if fault.message != "" {
			m.fault(at+".selector."+fault.path, "%s.selector.%s: %s", at, fault.path, fault.message)
			return "", false
		}
		matchers = append(matchers, more...)
	}
	return series(from.Name, matchers...), true
}

// selectorFault is what is wrong with a selector, and where in it.
type selectorFault struct{ path, message string }

func (s *labelSelector) matchers() (all []string, fault selectorFault) {
	for _, key := range sortedKeys(s.MatchLabels) {
		all = append(all, label(key)+"="+strconv.Quote(s.MatchLabels[key]))
	}
	for i, e := range s.MatchExpressions {
		at := fmt.Sprintf("matchExpressions[%d]", i)
		escaped := make([]string, len(e.Values))
		for j, v := range e.Values {
			escaped[j] = regexp.QuoteMeta(v)
		}
		values := strconv.Quote(strings.Join(escaped, "|"))
		switch {
		case e.Key == "":
			return nil, selectorFault{at, "key: missing"}
		case e.Operator == "Exists":
			all = append(all, label(e.Key)+`!=""`)
		case e.Operator == "DoesNotExist":
			all = append(all, label(e.Key)+`=""`)
		case (e.Operator == "In" || e.Operator == "NotIn") && len(e.Values) == 0:
			return nil, selectorFault{at, "values: missing: they go with In and NotIn"}
		case e.Operator == "In":
			all = append(all, label(e.Key)+"=~"+values)
		case e.Operator == "NotIn":
			all = append(all, label(e.Key)+"!~"+values)
		default:
			operators := []string{"In", "NotIn", "Exists", "DoesNotExist"}
			return nil, selectorFault{at + ".operator", fmt.Sprintf("%q is none of %s%s", e.Operator, strings.Join(operators, ", "), source.DidYouMean(e.Operator, operators))}
		}
	}
	return all, selectorFault{}
}
