// Package convert makes rule files of what scales already: HorizontalPodAutoscalers and KEDA's ScaledObjects.
//
//	r, err := convert.HPA([]convert.Input{{Name: "hpa.yaml", Text: text}}, convert.Options{Namespace: "default"})
//	os.Stdout.Write(r.Text) // a rule file that rules.Reader takes
//
// Each object becomes a scale rule that observes and decides as the object's controller does: the same ratio, tolerance,
// windows and policies. Comments say of each field what became of it, and of what cannot be carried over that it was not.
//
// A metric of the HPA comes from the metrics API, of which nobody can tell what stands behind it. What Prometheus usually has
// for it is asked instead: cAdvisor's and kube-state-metrics' series for cpu and memory, the metric's own name else, and for
// a trigger of KEDA the usual exporter, or what KEDA itself says of the trigger.
//
// Input is YAML or JSON as kubectl writes it: several documents, Lists, with status and managedFields. What is wrong with it is
// told as package source tells it, all of it at once.
package convert
