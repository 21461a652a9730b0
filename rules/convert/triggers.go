package convert

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"flyball/rules/source"
)

// trigger is one of a ScaledObject.
type trigger struct {
	Type              string            `yaml:"type"`
	Name              string            `yaml:"name"`
	MetricType        string            `yaml:"metricType"`
	Metadata          map[string]string `yaml:"metadata"`
	UseCachedMetrics  bool              `yaml:"useCachedMetrics"`
	AuthenticationRef *struct {
		Name string `yaml:"name"`
		Kind string `yaml:"kind"`
	} `yaml:"authenticationRef"`

	at    string
	index int
	k     *keda
	used  []string // keys of Metadata that were converted
}

// demand is what a trigger asks for: a query and how much of its value one replica is for.
type demand struct {
	name          string
	expr          string
	at            string // the path of what the query was made of
	target        float64
	activation    float64
	activationKey string
	ratio         bool   // metricType Value
	value         string // the signal's, with %s for the query's name; empty: the query's value
	more          []query
	notes         []note
	signalNotes   []note
}

// get is a value of the metadata.
func (t *trigger) get(key string) string {
	t.used = append(t.used, key)
	return strings.TrimSpace(t.Metadata[key])
}

func (t *trigger) path(key string) string { return t.at + ".metadata." + key }

// need is a value that must be there.
func (t *trigger) need(key string) string {
	v := t.get(key)
	switch {
	case v != "":
	case t.Metadata[key+"FromEnv"] != "":
		t.k.refused = fmt.Sprintf("%sFromEnv: the value is in the environment of the target: give it as %s", t.path(key), key)
	default:
		t.k.fault(t.path(key), "%s: missing: a trigger of type %s needs it", t.path(key), t.Type)
	}
	return v
}

// threshold takes the target and the activation of a trigger: the key's value, or a default above 0.
func (t *trigger) threshold(d *demand, key string, otherwise float64) {
	d.target = otherwise
	if v := t.get(key); v != "" || otherwise == 0 {
		d.target, _ = t.k.positive(t.path(key), v)
	}
	d.activationKey = "activation" + strings.ToUpper(key[:1]) + key[1:]
	if v := t.get(d.activationKey); v != "" {
		above, err := strconv.ParseFloat(v, 64)
		if err != nil || math.IsNaN(above) || math.IsInf(above, 0) {
			t.k.fault(t.path(d.activationKey), "%s: %q is not a number", t.path(d.activationKey), v)
		}
		d.activation = above
	}
	said := key + " for each replica."
	if t.Metadata[key] == "" {
		said = fmt.Sprintf("%s is not given: %s for each replica.", key, number(otherwise))
	}
	d.signalNotes = append(d.signalNotes, say("%s", said))
}

// demand converts a trigger to a query of what its source's usual exporter has, or of what KEDA says of it. nil: that has been
// told, as a fault or as what keeps the object from being converted.
func (t *trigger) demand() *demand {
	d := &demand{name: t.Name, at: t.at}
	switch t.MetricType {
	case "", "AverageValue":
	case "Value":
		d.ratio = true
	default:
		types := []string{"AverageValue", "Value"}
		t.k.fault(t.at+".metricType", "%s.metricType is %q: expected %s%s", t.at, t.MetricType, strings.Join(types, " or "), source.DidYouMean(t.MetricType, types))
		return nil
	}
	switch t.Type {
	case "prometheus":
		t.prometheus(d)
	case "kafka", "apache-kafka":
		t.kafka(d)
	case "rabbitmq":
		t.rabbitmq(d)
	case "aws-sqs-queue":
		t.sqs(d)
	case "redis", "redis-cluster", "redis-sentinel":
		t.threshold(d, "listLength", 5)
		t.exported(d, "redis_key_size{key="+t.quoted("listName")+"}", "redis_exporter, told by --check-keys of the list")
	case "redis-streams", "redis-cluster-streams", "redis-sentinel-streams":
		t.redisStream(d)
	case "nats-jetstream":
		t.threshold(d, "lagThreshold", 10)
		matchers := "{stream_name=" + t.quoted("stream") + ",consumer_name=" + t.quoted("consumer") + "}"
		t.exported(d, "sum(jetstream_consumer_num_pending"+matchers+") + sum(jetstream_consumer_num_ack_pending"+matchers+")", "prometheus-nats-exporter with -jsz=consumers")
	default:
		if !t.own(d) {
			return nil
		}
	}
	t.rest(d)
	return d
}

// quoted is a value of the metadata as a PromQL string.
func (t *trigger) quoted(key string) string { return strconv.Quote(t.need(key)) }

// exported notes a query of an exporter's series.
func (t *trigger) exported(d *demand, expr, exporter string) {
	d.expr = expr
	d.notes = append(d.notes, say("%s: %s. KEDA asks the source itself; here there must be %s, by whose usual names this is asked.", t.at, t.Type, exporter))
}

func (t *trigger) prometheus(d *demand) {
	t.threshold(d, "threshold", 0)
	d.expr, d.at = t.need("query"), t.path("query")
	address := t.get("serverAddress")
	d.notes = append(d.notes, say("%s: prometheus. The query as it is; prometheus.url must be what KEDA asks: %s.", t.at, orNothing(address)))
	if ns := t.get("namespace"); ns != "" {
		d.notes = append(d.notes, lost("%s: KEDA adds it to the request, for a proxy that sees to tenants: put the label into the query.", t.path("namespace")))
	}
	if v := t.get("ignoreNullValues"); v == "" || v == "true" {
		d.notes = append(d.notes, lost("ignoreNullValues is true, KEDA's default: KEDA takes no answer for 0 and goes down. The rule HOLDS: no answer is what an outage looks like. If no series does mean no demand, end the query with: or vector(0)."))
	}
}

// orNothing is an address without what is secret in it.
func orNothing(address string) string {
	if address == "" {
		return "(no serverAddress)"
	}
	u, err := url.Parse(address)
	if err != nil {
		return "(a serverAddress that is no URL)"
	}
	u.RawQuery = ""
	return u.Redacted()
}

func (t *trigger) kafka(d *demand) {
	t.threshold(d, "lagThreshold", 10)
	matchers := "{consumergroup=" + t.quoted("consumerGroup")
	topic := t.get("topic")
	if topic != "" {
		matchers += ",topic=" + strconv.Quote(topic)
	}
	if t.get("partitionLimitation") != "" {
		d.notes = append(d.notes, lost("%s: the lag of all partitions is asked.", t.path("partitionLimitation")))
	}
	if t.get("excludePersistentLag") == "true" {
		d.notes = append(d.notes, lost("%s: the lag of consumers that do not move counts.", t.path("excludePersistentLag")))
	}
	t.exported(d, "sum(clamp_min(kafka_consumergroup_lag"+matchers+"}, 0))", "kafka_exporter")
	if topic == "" || t.get("allowIdleConsumers") == "true" || t.get("limitToPartitionsWithLag") == "true" || t.Name != "" && t.k.modified() {
		if t.Metadata["limitToPartitionsWithLag"] == "true" {
			d.notes = append(d.notes, lost("%s: no more replicas than partitions that lag: not so here.", t.path("limitToPartitionsWithLag")))
		}
		return
	}
	partitions := query{
		name: t.k.rule.queryName("partitions"), expr: "sum(kafka_topic_partitions{topic=" + strconv.Quote(topic) + "})",
		notes: []note{say("allowIdleConsumers is false: no more replicas than the topic has partitions.")},
	}
	d.more = append(d.more, partitions)
	d.value = fmt.Sprintf("min(%%s, %s * %s)", partitions.name, number(d.target))
}

// modified says that the triggers are what a formula is made of.
func (k *keda) modified() bool {
	return k.spec.Advanced != nil && k.spec.Advanced.Modifiers != nil && k.spec.Advanced.Modifiers.Formula != ""
}

func (t *trigger) rabbitmq(d *demand) {
	matchers := "{queue=" + t.quoted("queueName")
	if vhost := t.get("vhostName"); vhost != "" {
		matchers += ",vhost=" + strconv.Quote(vhost)
	}
	matchers += "}"
	const exporter = "RabbitMQ's own metrics for each queue (rabbitmq_prometheus, /metrics/per-object)"
	if old := t.get("queueLength"); old != "" && t.Metadata["mode"] == "" {
		t.threshold(d, "queueLength", 0)
		t.exported(d, "sum(rabbitmq_queue_messages"+matchers+")", exporter)
		return
	}
	t.threshold(d, "value", 0)
	switch mode := t.need("mode"); {
	case mode == "MessageRate":
		t.exported(d, "sum(rate(rabbitmq_queue_messages_published_total"+matchers+"[2m]))", exporter)
	case mode == "QueueLength" && t.get("excludeUnacknowledged") == "true":
		t.exported(d, "sum(rabbitmq_queue_messages_ready"+matchers+")", exporter)
	case mode == "QueueLength":
		t.exported(d, "sum(rabbitmq_queue_messages"+matchers+")", exporter)
	case mode != "" && t.own(d):
		d.notes = append(d.notes, say("mode %s has no series of the usual exporter.", mode))
	}
}

func (t *trigger) sqs(d *demand) {
	t.threshold(d, "queueLength", 5)
	queue := t.need("queueURL")
	name := strconv.Quote(queue[strings.LastIndexByte(queue, '/')+1:])
	all := []string{"visible"}
	if t.get("scaleOnInFlight") != "false" {
		all = append(all, "not_visible")
	}
	if t.get("scaleOnDelayed") == "true" {
		all = append(all, "delayed")
	}
	for i, what := range all {
		all[i] = fmt.Sprintf("sum(aws_sqs_approximate_number_of_messages_%s_average{queue_name=%s})", what, name)
	}
	t.exported(d, strings.Join(all, "\n+ "), "cloudwatch_exporter, whose data is some minutes old: give stale_after what that takes")
}

func (t *trigger) redisStream(d *demand) {
	matchers := "{stream=" + t.quoted("stream")
	if group := t.get("consumerGroup"); group != "" {
		matchers += ",group=" + strconv.Quote(group)
	}
	matchers += "}"
	const exporter = "redis_exporter, told by --check-streams of the stream"
	switch {
	case t.get("lagCount") != "":
		t.threshold(d, "lagCount", 0)
		t.exported(d, "sum(redis_stream_group_lag"+matchers+")", exporter)
	case t.get("pendingEntriesCount") != "":
		t.threshold(d, "pendingEntriesCount", 0)
		t.exported(d, "sum(redis_stream_group_messages_pending"+matchers+")", exporter)
	default:
		t.threshold(d, "streamLength", 5)
		t.exported(d, "sum(redis_stream_length"+matchers+")", exporter)
	}
}

// targets are the names that triggers have for what one replica is for.
var targets = []string{
	"threshold", "targetValue", "value", "targetQueryValue", "targetMetricValue", "queryValue", "queueLength", "messageCount",
	"lagThreshold", "listLength", "unprocessedEventThreshold", "blobCount", "targetProcessingRate", "shardCount", "nodeCount",
	"targetPipelinesQueueLength", "targetWorkflowQueueLength", "targetQueueSize",
}

// own converts a trigger of which no exporter is usual to what KEDA itself says of it.
func (t *trigger) own(d *demand) bool {
	i := slices.IndexFunc(targets, func(key string) bool { return t.Metadata[key] != "" })
	if i < 0 {
		t.k.refused = fmt.Sprintf("%s: of a trigger of type %s it is not known what one replica is for: its metadata has none of %s", t.at, t.Type, strings.Join(targets, ", "))
		return false
	}
	if d.target == 0 {
		t.threshold(d, targets[i], 0)
	}
	d.expr = fmt.Sprintf("max(keda_scaler_metrics_value{exported_namespace=%q,scaledObject=%q,triggerIndex=\"%d\"})", t.k.Meta.Namespace, t.k.Meta.Name, t.index)
	d.notes = append(d.notes,
		say("%s: %s. No exporter is usual for it: this is what the KEDA operator says of the trigger on its own /metrics, as Prometheus has it unless honor_labels is set (then the label is namespace). It is gone when KEDA is.", t.at, t.Type),
		lost("%s: for a rule that is to do without KEDA, have its source in Prometheus and write that query.", t.at))
	return true
}

// rest says what of the trigger is left.
func (t *trigger) rest(d *demand) {
	if t.UseCachedMetrics {
		d.notes = append(d.notes, say("useCachedMetrics: without effect here, where each query is asked once for an evaluation."))
	}
	if t.AuthenticationRef != nil {
		d.notes = append(d.notes, say("authenticationRef: prometheus.url has its own authentication, and an exporter its own."))
	}
	var left []string
	for _, key := range sortedKeys(t.Metadata) {
		if !slices.Contains(t.used, key) && key != "metricName" {
			left = append(left, key)
		}
	}
	if len(left) > 0 {
		d.notes = append(d.notes, say("Of the metadata %s: about the connection, or without effect here.", strings.Join(left, ", ")))
	}
}

// query adds the queries of a demand.
func (t *trigger) query(d *demand) {
	r := t.k.rule
	faults := checkQuery(d.expr)
	for _, fault := range faults {
		t.k.d.FaultAt(t.k.at(d.at), fault.offset, "%s: %s", d.at, fault.message)
	}
	if faults != nil {
		return
	}
	base := d.name
	if base == "" {
		base = t.Type
	}
	d.name = r.queryName(base)
	r.queries = append(r.queries, query{name: d.name, expr: d.expr, notes: d.notes})
	r.queries = append(r.queries, d.more...)
}

// resource converts cpu and memory, which KEDA gives to its HPA.
func (t *trigger) resource() {
	kind := t.MetricType
	if kind == "" {
		kind = t.get("type") // as it was before
	}
	v := t.need("value")
	container := t.get("containerName")
	switch {
	case kind != "Utilization" && kind != "AverageValue":
		types := []string{"Utilization", "AverageValue"}
		t.k.fault(t.at+".metricType", "%s.metricType is %q: expected Utilization or AverageValue%s", t.at, kind, source.DidYouMean(kind, types))
		return
	case container != "" && !dnsName.MatchString(container):
		t.k.fault(t.path("containerName"), "%s is %q: expected the name of a container", t.path("containerName"), container)
		return
	case v == "":
		return
	}
	target, ok := parseQuantity(v)
	if !ok || target <= 0 {
		t.k.fault(t.path("value"), "%s: %q is not a quantity above 0", t.path("value"), v)
		return
	}
	m := &measure{object: t.k.object, rule: t.k.rule, workload: t.k.workload, path: t.at, up: t.k.up, down: t.k.down}
	m.addResource(t.Type, container, kind, target)
}

// cronFields are those that KEDA takes.
var cronFields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// cron converts a trigger to a schedule.
func (t *trigger) cron() {
	before := t.k.d.Len()
	s := schedule{cron: t.need("start"), until: t.need("end"), tz: t.need("timezone")}
	n, err := strconv.Atoi(t.need("desiredReplicas"))
	if t.k.d.Len() > before {
		return
	}
	if err != nil || n < 0 {
		t.k.fault(t.path("desiredReplicas"), "%s: %q is not a number of replicas", t.path("desiredReplicas"), t.Metadata["desiredReplicas"])
	}
	if _, err := time.LoadLocation(s.tz); err != nil || s.tz == "Local" {
		t.k.fault(t.path("timezone"), "%s: %q is not the name of a time zone, such as Europe/Berlin", t.path("timezone"), s.tz)
	}
	for _, key := range []string{"start", "end"} {
		text := t.Metadata[key]
		_, err := cronFields.Parse(strings.ReplaceAll(text[:min(len(text), 200)], "TZ=", "no zone "))
		if err != nil || len(text) > 200 {
			t.k.fault(t.path(key), "%s: %q: expected five fields: minute, hour, day of the month, month, day of the week", t.path(key), text)
		}
	}
	s.min = n
	s.notes = append(s.notes, say("%s: cron. At once to desiredReplicas, and at its end down as fast as the policies allow: KEDA's HPA would go up by its policies, and wait for its window at the end.", t.at))
	if n > t.k.rule.max {
		s.min = t.k.rule.max
		s.notes = append(s.notes, say("desiredReplicas is %d, above the most, which is %d.", n, t.k.rule.max))
	}
	t.k.rule.schedule = append(t.k.rule.schedule, s)
}
