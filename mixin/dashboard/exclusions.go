package dashboard

import (
	"slices"

	"flyball/rules/source"
)

// Exclusions are the rules that a .lint file beside a dashboard turns off, or makes less of, in the format of
// dashboard-linter. A nil *Exclusions excludes nothing.
type Exclusions struct {
	exclusions, warnings map[string]exclusion
}

type exclusion struct {
	Reason  string           `yaml:"reason"`
	Entries []exclusionEntry `yaml:"entries"`
}

// exclusionEntry narrows an exclusion to a dashboard, a panel or one of its queries; what is empty is any.
type exclusionEntry struct {
	Reason    string `yaml:"reason"`
	Dashboard string `yaml:"dashboard"`
	Panel     string `yaml:"panel"`
	TargetIdx *int   `yaml:"targetIdx"`
}

// Rules are the names of the rules of style, sorted.
func Rules() []string {
	return []string{
		"panel-datasource-rule", "panel-no-targets-rule", "panel-title-description-rule", "panel-units-rule",
		"target-counter-agg-rule", "target-instance-rule", "target-job-rule", "target-logql-auto-rule", "target-logql-rule", "target-promql-rule",
		"target-rate-interval-rule", "template-datasource-rule", "template-instance-rule", "template-job-rule",
		"template-label-promql-rule", "template-on-time-change-reload-rule", "uneditable-dashboard",
	}
}

// ParseExclusions reads a .lint file. The error is of type source.Errors.
func ParseExclusions(name string, text []byte) (*Exclusions, error) {
	parsed, err := source.Parse(name, text)
	if err != nil {
		return nil, err
	}
	var file struct {
		Exclusions map[string]exclusion `yaml:"exclusions"`
		Warnings   map[string]exclusion `yaml:"warnings"`
	}
	d := parsed.Decoder()
	d.Decode(&file)
	for part, rules := range map[string]map[string]exclusion{"exclusions": file.Exclusions, "warnings": file.Warnings} {
		for rule := range rules {
			// Upstream has rules that are not checked here; a name that is nearly one of ours is a slip.
			if hint := source.DidYouMean(rule, Rules()); !slices.Contains(Rules(), rule) && hint != "" {
				d.FaultAt(part+"."+rule, 0, "no rule %q%s", rule, hint)
			}
		}
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	return &Exclusions{exclusions: file.Exclusions, warnings: file.Warnings}, nil
}

// apply drops what is excluded and makes warnings of what is only to be warned of.
func (x *Exclusions) apply(d *Dashboard, findings []Finding) (kept []Finding) {
	if x == nil {
		return findings
	}
	for _, f := range findings {
		if matches(x.exclusions, d, f) {
			continue
		}
		if matches(x.warnings, d, f) {
			f.Severity = Warning
		}
		kept = append(kept, f)
	}
	return kept
}

func matches(rules map[string]exclusion, d *Dashboard, f Finding) bool {
	e, there := rules[f.Rule]
	if !there || len(e.Entries) == 0 {
		return there
	}
	return slices.ContainsFunc(e.Entries, func(entry exclusionEntry) bool {
		return (entry.Dashboard == "" || entry.Dashboard == d.Title) &&
			(entry.Panel == "" || f.In != "" && entry.Panel == f.panel) &&
			(entry.TargetIdx == nil || *entry.TargetIdx == f.target)
	})
}
