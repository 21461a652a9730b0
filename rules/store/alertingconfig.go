package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/notifier"
	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// Alerting is the user's alerting section, ready to be applied. The zero value sends nothing.
type Alerting struct {
	alertmanagers []alertmanagerConfig
	relabel       []*relabel.Config
}

type alertmanagerConfig struct {
	config *config.AlertmanagerConfig
	text   string // as the user wrote it, but without comments and aliases
}

// Len is the number of configurations of Alertmanagers; discovery may find none or several for each.
func (a Alerting) Len() int { return len(a.alertmanagers) }

// ParseAlerting reads the value of alerting, a mapping in Prometheus's format, with alertmanagers and
// alert_relabel_configs. Alertmanagers may come from static_configs, file_sd_configs, http_sd_configs and
// kubernetes_sd_configs; any other discovery is an error. Relative paths start from dir. The error joins all faults, each beginning with the path of its
// field, such as alerting.alertmanagers[0].scheme, as closely as it is known; files of TLS that cannot be read are among them.
func ParseAlerting(text []byte, dir string) (Alerting, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return Alerting{}, fmt.Errorf("alerting: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return Alerting{}, nil
	}
	room := maxNodes
	root := withoutAliases(doc.Content[0], &room)
	switch {
	case root == nil:
		return Alerting{}, fmt.Errorf("alerting: with its aliases filled in it has more than %d values", maxNodes)
	case root.Kind != yaml.MappingNode:
		return Alerting{}, errors.New("alerting: it is not a mapping: give alertmanagers and alert_relabel_configs")
	}
	p := alertingParser{dir: dir}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i].Value, root.Content[i+1]
		if seen[key] {
			p.fault("alerting."+key, "the key %q is there twice", key)
			continue
		}
		seen[key] = true
		switch path := "alerting." + key; key {
		case "alertmanagers":
			for i, item := range p.list(value, path) {
				p.alertmanager(item, fmt.Sprintf("%s[%d]", path, i))
			}
		case "alert_relabel_configs":
			for i, item := range p.list(value, path) {
				p.relabel(item, fmt.Sprintf("%s[%d]", path, i))
			}
		default:
			p.fault(path, "unknown key %q%s", key, source.DidYouMean(key, []string{"alertmanagers", "alert_relabel_configs"}))
		}
	}
	if err := p.err(); err != nil {
		return Alerting{}, err
	}
	return p.alerting, nil
}

// alertingParser collects an alerting section and its faults.
type alertingParser struct {
	dir      string
	alerting Alerting
	faults   []error
}

func (p *alertingParser) fault(path, format string, args ...any) {
	p.faults = append(p.faults, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// err joins the faults, no more than can be read.
func (p *alertingParser) err() error {
	var all []error
	for _, err := range p.faults {
		all = append(all, apart(err)...)
	}
	if n := len(all) - maxFaults; n > 0 {
		all = append(all[:maxFaults:maxFaults], fmt.Errorf("alerting: it has %d more faults", n))
	}
	return errors.Join(all...)
}

// apart are the errors that are joined in one.
func apart(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, err := range joined.Unwrap() {
		all = append(all, apart(err)...)
	}
	return all
}

func (p *alertingParser) list(value *yaml.Node, path string) []*yaml.Node {
	switch {
	case value.Kind == yaml.SequenceNode:
		return value.Content
	case value.Tag != "!!null":
		p.fault(path, "it is not a list")
	}
	return nil
}

// alertmanager reads one configuration of Alertmanagers: each of its keys alone, so that all faults are told, each where it
// is, and then all of them together.
func (p *alertingParser) alertmanager(item *yaml.Node, path string) {
	if item.Kind != yaml.MappingNode {
		p.fault(path, "it is not a configuration of Alertmanagers: give a mapping with static_configs or another list of them")
		return
	}
	before := len(p.faults)
	if err := checkDiscovery(item, path); err != nil {
		p.faults = append(p.faults, err)
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		if key := item.Content[i]; checkDiscovery(&yaml.Node{Content: []*yaml.Node{key, key}}, "") == nil {
			p.key(item, key, item.Content[i+1], path)
		}
	}
	if len(p.faults) > before {
		return
	}
	c := p.load(item, section{in: "alerting.alertmanagers[0]", path: path, root: path})
	if c == nil {
		return
	}
	am := c.AlertingConfig.AlertmanagerConfigs[0]
	switch {
	case am.Scheme != "http" && am.Scheme != "https":
		p.fault(path+".scheme", "%q is not a scheme: give http or https", am.Scheme)
	case am.Timeout <= 0:
		p.fault(path+".timeout", "%s leaves no time to send: give more than 0s, such as 10s", am.Timeout)
	case len(am.ServiceDiscoveryConfigs) == 0:
		p.fault(path, "it names no Alertmanager: give %s", discoveries)
	}
	text, err := yaml.Marshal(item)
	if err != nil {
		p.fault(path, "%s", err)
	}
	am.SetDirectory(p.dir)
	if err := below(path, checkAlertmanager(am, false)); err != nil {
		p.faults = append(p.faults, err)
	}
	p.alerting.alertmanagers = append(p.alerting.alertmanagers, alertmanagerConfig{am, string(text)})
}

// checkAlertmanager makes the clients that the notifier and discovery will make, from their certificates and keys. A notifier
// that never runs starts nothing. here says that they are to run in this process, and not only to be checked.
func checkAlertmanager(c *config.AlertmanagerConfig, here bool) error {
	trial := notifier.NewManager(&notifier.Options{}, model.UTF8Validation, slog.New(slog.DiscardHandler))
	err := trial.ApplyConfig(&config.Config{AlertingConfig: config.AlertingConfig{AlertmanagerConfigs: config.AlertmanagerConfigs{c}}})
	return errors.Join(err, checkDiscoveryClients(c.ServiceDiscoveryConfigs, here))
}

// key reads one key of a configuration of Alertmanagers, and each item of a list alone.
func (p *alertingParser) key(item, key, value *yaml.Node, path string) {
	in := "alerting.alertmanagers[0]." + key.Value
	switch key.Value {
	case "no_proxy", "proxy_connect_header":
		return // they stand only beside another key
	}
	single := func(value *yaml.Node, in, at string) {
		m := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, value}}
		if key.Value == "static_configs" && hasKey(item, "relabel_configs") {
			// Where addresses are relabelled, they may be anything before.
			rule := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar("action"), scalar("labeldrop"), scalar("regex"), scalar("x")}}
			m.Content = append(m.Content, scalar("relabel_configs"), &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{rule}})
		}
		p.load(m, section{in: in, path: at, root: path})
	}
	if !strings.HasSuffix(key.Value, "_configs") || value.Kind != yaml.SequenceNode {
		single(value, in, path+"."+key.Value)
		return
	}
	for i, element := range value.Content {
		list := &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{element}}
		single(list, in+"[0]", fmt.Sprintf("%s.%s[%d]", path, key.Value, i))
	}
}

// relabel reads one rule for alerts to any Alertmanager.
func (p *alertingParser) relabel(item *yaml.Node, path string) {
	if c := p.decode(map[string]any{"alert_relabel_configs": []*yaml.Node{item}}, section{
		in: "alerting.alert_relabel_configs[0]", path: path, root: path, form: reflect.TypeFor[relabel.Config](),
	}); c != nil {
		p.alerting.relabel = append(p.alerting.relabel, c.AlertingConfig.AlertRelabelConfigs...)
	}
}

// load has Prometheus decode a configuration of Alertmanagers, or a part of one. It returns nil when there is a fault.
func (p *alertingParser) load(item *yaml.Node, s section) *config.Config {
	s.form = reflect.TypeFor[config.AlertmanagerConfig]()
	return p.decode(map[string]any{"alertmanagers": []*yaml.Node{item}}, s)
}

func (p *alertingParser) decode(alerting map[string]any, s section) *config.Config {
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	err := enc.Encode(map[string]any{"alerting": alerting})
	if err := errors.Join(err, enc.Close()); err != nil {
		p.fault(s.path, "%s", err)
		return nil
	}
	c, err := config.Load(text.String(), slog.New(slog.DiscardHandler))
	if err != nil {
		p.faults = append(p.faults, configErrors(err, s, text.Bytes()))
		return nil
	}
	return c
}

func hasKey(mapping *yaml.Node, name string) bool {
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return true
		}
	}
	return false
}

func scalar(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }
