package store

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"

	"flyball/rules"
	"flyball/rules/source"
)

// decisionData is what the annotations of a rule that decides know: what those of an alert do, and the decision. Value is
// the size that was decided on.
type decisionData struct {
	Labels         map[string]string
	ExternalLabels map[string]string
	ExternalURL    string
	Value          float64

	Rule, Target, Mode   string
	Action, Reason, Text string
	From, To             int
}

// annotationStart gives the names that templates of alerts have.
const annotationStart = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"

// CheckAnnotation says what is wrong with the template of an annotation of a rule that decides.
func CheckAnnotation(text string) error {
	none := func(context.Context, string, time.Time) (promql.Vector, error) { return nil, nil }
	data := decisionData{Labels: map[string]string{}, ExternalLabels: map[string]string{}}
	t := template.NewTemplateExpander(context.Background(), annotationStart+text, "annotation", data, 0, none, &url.URL{}, nil)
	if err := t.ParseTest(); err != nil {
		return err
	}
	// What it would say is not known before there is data; that it asks for what no decision has is.
	_, err := t.Expand()
	if err == nil {
		return nil
	}
	_, fault, found := strings.Cut(err.Error(), "can't evaluate field ")
	if !found {
		return nil
	}
	field, of, _ := strings.Cut(fault, " in type ")
	if !strings.HasPrefix(of, "store.decisionData") {
		return fmt.Errorf("template: there is no %s in %s", field, of)
	}
	var known []string
	for f := range reflect.TypeFor[decisionData]().Fields() {
		known = append(known, f.Name)
	}
	if hint := source.DidYouMean(field, known); hint != "" {
		return fmt.Errorf("template: a decision has no %s%s", field, hint)
	}
	slices.Sort(known)
	return fmt.Errorf("template: a decision has no %s: it has %s", field, strings.Join(known, ", "))
}

// ExpandAnnotation fills in the template of an annotation with a decision, with Prometheus's functions. A template that
// cannot be filled in gives a text that says so, as that of an alert.
func (s *Store) ExpandAnnotation(ctx context.Context, name, text string, d *rules.Decision) string {
	if !strings.Contains(text, "{{") {
		return text
	}
	of := map[string]string{"rule": d.Rule, "target": d.Target}
	maps.Copy(of, d.Labels)
	data := decisionData{
		Labels: of, ExternalLabels: s.global.Load().ExternalLabels.Map(), ExternalURL: s.opts.ExternalURL, Value: float64(d.To),
		Rule: d.Rule, Target: d.Target, Mode: d.Mode, Action: string(d.Action), Reason: d.ReasonText(), Text: d.Text, From: d.From, To: d.To,
	}
	t := template.NewTemplateExpander(ctx, annotationStart+text, "annotation "+name, data, model.Time(timestamp.FromTime(d.Time)),
		template.QueryFunc(s.ruleOptions.QueryFunc), s.ruleOptions.ExternalURL, nil)
	result, err := t.Expand()
	if err != nil {
		s.logger.Warn("an annotation cannot be filled in", "rule", d.Rule, "annotation", name, "err", err)
		return fmt.Sprintf("<error expanding template: %s>", err)
	}
	return result
}
