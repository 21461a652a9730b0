package rules

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"
)

// Export is a file that the Reader has read as Prometheus takes it: its record and alert rules as they are, comments included,
// and those that SLOs and budgets stand for. Rules that decide are left out, which a comment in their place says.
func (r *Reader) Export(f *File) ([]byte, error) {
	i := slices.Index(r.files, f)
	if i < 0 {
		return nil, fmt.Errorf("export %s: it was not read by this reader", f.Name)
	}
	document := r.sources[i].Plain()
	if document == nil || document.Kind != yaml.MappingNode {
		document = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	if _, groups := entry(document, "groups"); groups != nil {
		for i, group := range groups.Content {
			if err := exportGroup(group, &f.Groups[i]); err != nil {
				return nil, fmt.Errorf("export %s: group %s: %w", f.Name, f.Groups[i].Name, err)
			}
		}
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(document); err != nil {
		return nil, fmt.Errorf("export %s: %w", f.Name, err)
	}
	return b.Bytes(), nil
}

// entry is that of a mapping without merges.
func entry(mapping *yaml.Node, name string) (key, value *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

// exportGroup leaves a group with what Prometheus evaluates.
func exportGroup(group *yaml.Node, g *Group) error {
	key, list := entry(group, "rules")
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	var kept []*yaml.Node
	var left []string // comments on what is left out, for the next rule that is not
	for i, node := range list.Content {
		r := &g.Rules[i]
		if r.Record != nil || r.Alert != nil {
			node.HeadComment = joinComments(append(left, node.HeadComment)...)
			kept, left = append(kept, node), nil
			continue
		}
		derived := r.Derived()
		words := fmt.Sprintf("# %s %s is left out: Prometheus has no such rule.", r.Kind(), r.name())
		if len(derived) > 0 {
			words = fmt.Sprintf("# What %s %s stands for:", r.Kind(), r.name())
		}
		left = append(left, node.HeadComment, words)
		for i := range derived {
			node, err := derived[i].node()
			if err != nil {
				return err
			}
			node.HeadComment = joinComments(left...)
			kept, left = append(kept, node), nil
		}
	}
	list.Content, list.Style = kept, 0
	key.HeadComment = joinComments(append([]string{key.HeadComment}, left...)...)
	return nil
}

func joinComments(all ...string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == "" }), "\n")
}

// name is what the rule is called, on one line.
func (r *Rule) name() string {
	name := ""
	switch {
	case r.Scale != nil:
		name = r.Scale.Name
	case r.Budget != nil:
		name = r.Budget.Name
	case r.SLO != nil:
		name = r.SLO.Name
	case r.Optimize != nil:
		name = r.Optimize.Name
	case r.Forecast != nil:
		name = r.Forecast.Name
	}
	return strings.Join(strings.Fields(name), " ")
}

// node is a record or an alert rule in YAML.
func (r *Rule) node() (*yaml.Node, error) {
	var n yaml.Node
	var err error
	if a := r.Alert; a != nil {
		err = n.Encode(struct {
			Name          string            `yaml:"alert"`
			Expr          string            `yaml:"expr"`
			For           model.Duration    `yaml:"for,omitempty"`
			KeepFiringFor model.Duration    `yaml:"keep_firing_for,omitempty"`
			Labels        map[string]string `yaml:"labels,omitempty"`
			Annotations   map[string]string `yaml:"annotations,omitempty"`
		}(*a))
	} else {
		err = n.Encode(struct {
			Name   string            `yaml:"record"`
			Expr   string            `yaml:"expr"`
			Labels map[string]string `yaml:"labels,omitempty"`
		}(*r.Record))
	}
	return &n, err
}
