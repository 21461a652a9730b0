package store

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promrules "github.com/prometheus/prometheus/rules"

	"flyball/rules/promapi"
)

type apiGroups struct {
	Groups    []apiGroup `json:"groups"`
	NextToken string     `json:"groupNextToken,omitempty"`
}

type apiGroup struct {
	Name           string    `json:"name"`
	File           string    `json:"file"`
	Rules          []any     `json:"rules"` // apiAlertingRule and apiRecordingRule, in their order
	Interval       float64   `json:"interval"`
	Limit          int       `json:"limit"`
	EvaluationTime float64   `json:"evaluationTime"`
	LastEvaluation time.Time `json:"lastEvaluation"`
}

type apiAlertingRule struct {
	State          string        `json:"state"`
	Name           string        `json:"name"`
	Query          string        `json:"query"`
	Duration       float64       `json:"duration"`
	KeepFiringFor  float64       `json:"keepFiringFor"`
	Labels         labels.Labels `json:"labels"`
	Annotations    labels.Labels `json:"annotations"`
	Alerts         []apiAlert    `json:"alerts"`
	Health         string        `json:"health"`
	LastError      string        `json:"lastError,omitempty"`
	EvaluationTime float64       `json:"evaluationTime"`
	LastEvaluation time.Time     `json:"lastEvaluation"`
	Type           string        `json:"type"`
}

type apiRecordingRule struct {
	Name           string        `json:"name"`
	Query          string        `json:"query"`
	Labels         labels.Labels `json:"labels"`
	Health         string        `json:"health"`
	LastError      string        `json:"lastError,omitempty"`
	EvaluationTime float64       `json:"evaluationTime"`
	LastEvaluation time.Time     `json:"lastEvaluation"`
	Type           string        `json:"type"`
}

type apiAlert struct {
	Labels          labels.Labels `json:"labels"`
	Annotations     labels.Labels `json:"annotations"`
	State           string        `json:"state"`
	ActiveAt        time.Time     `json:"activeAt"`
	KeepFiringSince *time.Time    `json:"keepFiringSince,omitempty"`
	Value           string        `json:"value"`
}

// ListRules lists the groups with their record and alert rules. Evaluators are left out: clients of Prometheus's API know
// two types of rules and refuse an answer with a third; so are groups that have nothing else.
func (s *Store) ListRules(f promapi.RuleFilter) (*promapi.Result, error) {
	sets, err := s.matchers(f.Match)
	if err != nil {
		return nil, &promapi.Error{Type: promapi.BadData, Err: err}
	}
	s.mu.Lock()
	runners := slices.Clone(s.runners)
	s.mu.Unlock()
	slices.SortFunc(runners, func(a, b *runner) int { // as Prometheus does, so that a token means the same place next time
		return compareGroups(a.group, b.group)
	})
	answer := apiGroups{Groups: []apiGroup{}}
	begun := f.NextToken == "" || f.GroupLimit == 0
	for _, r := range runners {
		token := groupToken(r.group)
		if begun = begun || token == f.NextToken; !begun {
			continue
		}
		if !selects(f.Groups, r.group.Name()) || !selects(f.Files, r.group.File()) {
			continue
		}
		g := apiGroup{
			Name: r.group.Name(), File: r.group.File(), Interval: r.group.Interval().Seconds(), Limit: r.group.Limit(),
			EvaluationTime: r.group.GetEvaluationTime().Seconds(), LastEvaluation: r.lastEvaluation(), Rules: []any{},
		}
		for _, rule := range r.group.Rules(sets...) {
			if !selects(f.Names, rule.Name()) {
				continue
			}
			if shown := apiRule(rule, f); shown != nil {
				g.Rules = append(g.Rules, shown)
			}
		}
		if len(g.Rules) == 0 {
			continue
		}
		if f.GroupLimit > 0 && len(answer.Groups) == f.GroupLimit {
			answer.NextToken = token
			break
		}
		answer.Groups = append(answer.Groups, g)
	}
	if !begun {
		return nil, promapi.InvalidParameter("group_next_token", fmt.Errorf("invalid group_next_token '%v'. were rule groups changed?", f.NextToken))
	}
	return &promapi.Result{Data: promapi.JSON(answer)}, nil
}

// apiRule is one rule, or nil if the filter leaves it out.
func apiRule(rule promrules.Rule, f promapi.RuleFilter) any {
	lastError := ""
	if err := rule.LastError(); err != nil {
		lastError = err.Error()
	}
	switch rule := rule.(type) {
	case *promrules.AlertingRule:
		if !f.Alerts {
			return nil
		}
		shown := apiAlertingRule{
			State: rule.State().String(), Name: rule.Name(), Query: rule.Query().String(),
			Duration: rule.HoldDuration().Seconds(), KeepFiringFor: rule.KeepFiringFor().Seconds(),
			Labels: rule.Labels(), Annotations: rule.Annotations(), Health: string(rule.Health()), LastError: lastError,
			EvaluationTime: rule.GetEvaluationDuration().Seconds(), LastEvaluation: rule.GetEvaluationTimestamp(), Type: "alerting",
		}
		if !f.ExcludeAlerts {
			shown.Alerts = apiAlerts(rule)
		}
		return shown
	case *promrules.RecordingRule:
		if !f.Records {
			return nil
		}
		return apiRecordingRule{
			Name: rule.Name(), Query: rule.Query().String(), Labels: rule.Labels(), Health: string(rule.Health()), LastError: lastError,
			EvaluationTime: rule.GetEvaluationDuration().Seconds(), LastEvaluation: rule.GetEvaluationTimestamp(), Type: "recording",
		}
	}
	return nil
}

// ListAlerts lists the alerts that are pending or firing.
func (s *Store) ListAlerts() *promapi.Result {
	s.mu.Lock()
	runners := slices.Clone(s.runners)
	s.mu.Unlock()
	slices.SortFunc(runners, func(a, b *runner) int { return compareGroups(a.group, b.group) })
	all := []apiAlert{}
	for _, r := range runners {
		for _, rule := range r.group.AlertingRules() {
			all = append(all, apiAlerts(rule)...)
		}
	}
	return &promapi.Result{Data: promapi.JSON(struct {
		Alerts []apiAlert `json:"alerts"`
	}{all})}
}

func apiAlerts(rule *promrules.AlertingRule) []apiAlert {
	all := []apiAlert{}
	for _, a := range rule.ActiveAlerts() {
		shown := apiAlert{
			Labels: a.Labels, Annotations: a.Annotations, State: a.State.String(), ActiveAt: a.ActiveAt,
			Value: strconv.FormatFloat(a.Value, 'e', -1, 64),
		}
		if !a.KeepFiringSince.IsZero() {
			shown.KeepFiringSince = &a.KeepFiringSince
		}
		all = append(all, shown)
	}
	slices.SortFunc(all, func(a, b apiAlert) int { return labels.Compare(a.Labels, b.Labels) })
	return all
}

// compareGroups is Prometheus's order of groups: by file, then by name.
func compareGroups(a, b *promrules.Group) int {
	return cmp.Or(cmp.Compare(a.File(), b.File()), cmp.Compare(a.Name(), b.Name()))
}

// selects says whether a list of names, of which none means all, has this one.
func selects(names []string, name string) bool {
	return len(names) == 0 || slices.Contains(names, name)
}

func groupToken(g *promrules.Group) string {
	sum := sha256.Sum256([]byte(g.File() + ";" + g.Name()))
	return hex.EncodeToString(sum[:])
}
