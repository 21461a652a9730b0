package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/file"        // file_sd_configs
	sdhttp "github.com/prometheus/prometheus/discovery/http" // http_sd_configs
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// ScrapeConfigs are the user's scrape_configs, ready to be applied.
type ScrapeConfigs struct {
	configs []*config.ScrapeConfig
}

// ScrapeGlobal is what scrape_configs take from the rest of the configuration.
type ScrapeGlobal struct {
	Interval time.Duration // of jobs that give none; 0: the default of Options
	Timeout  time.Duration // of jobs that give none; 0: 10s, or the interval if that is shorter
	Dir      string        // of the configuration file: relative paths in it start from there; "": where the process runs
}

// Jobs returns the names of the jobs, in the order of the file.
func (c ScrapeConfigs) Jobs() []string {
	var names []string
	for _, sc := range c.configs {
		names = append(names, sc.JobName)
	}
	return names
}

// ParseScrapeConfigs reads the value of scrape_configs, a list in Prometheus's format. Targets may come from
// static_configs, file_sd_configs, http_sd_configs and kubernetes_sd_configs; any other discovery is an error. The error
// joins all faults, each beginning with the path of its field, such as scrape_configs[0].scheme, as closely as it is known;
// files of TLS and kubeconfigs that cannot be read are among them.
func ParseScrapeConfigs(list []byte, global ScrapeGlobal) (ScrapeConfigs, error) {
	if global.Interval == 0 {
		global.Interval = DefaultOptions().ScrapeInterval
	}
	if global.Timeout == 0 {
		global.Timeout = min(defaultScrapeTimeout, global.Interval)
	}
	items, err := listItems(list)
	if err != nil {
		return ScrapeConfigs{}, fmt.Errorf("scrape_configs: %w", err)
	}
	var (
		configs ScrapeConfigs
		errs    []error
		first   = map[string]int{} // the first configuration of each job
	)
	for i, item := range items {
		path := fmt.Sprintf("scrape_configs[%d]", i)
		c, err := parseScrapeConfig(item, path, global)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if j, ok := first[c.JobName]; ok {
			errs = append(errs, fmt.Errorf("%s.job_name: %q is the name of scrape_configs[%d] already: give another", path, c.JobName, j))
			continue
		}
		first[c.JobName] = i
		configs.configs = append(configs.configs, c)
	}
	if err := errors.Join(errs...); err != nil {
		return ScrapeConfigs{}, err
	}
	return configs, nil
}

// listItems splits a YAML list.
func listItems(text []byte) ([]*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	if doc.Content[0].Kind != yaml.SequenceNode {
		return nil, errors.New("it is not a list: give a list of scrape configurations")
	}
	return doc.Content[0].Content, nil
}

// parseScrapeConfig lets Prometheus decode one configuration, alone in a file of its own, so that each one's faults are
// told and not only the first one's.
func parseScrapeConfig(item *yaml.Node, path string, global ScrapeGlobal) (*config.ScrapeConfig, error) {
	room := maxNodes
	if item = withoutAliases(item, &room); item == nil {
		return nil, fmt.Errorf("%s: with its aliases filled in it has more than %d values", path, maxNodes)
	}
	if item.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: it is not a scrape configuration: give a mapping with job_name and targets", path)
	}
	if err := checkDiscovery(item, path); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	err := enc.Encode(map[string]any{
		"global": map[string]any{
			"scrape_interval": model.Duration(global.Interval).String(),
			"scrape_timeout":  model.Duration(global.Timeout).String(),
		},
		"scrape_configs": []*yaml.Node{item},
	})
	if err := errors.Join(err, enc.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cfg, err := config.Load(text.String(), slog.New(slog.DiscardHandler))
	if err != nil {
		s := section{in: "scrape_configs[0]", path: path, root: path, form: reflect.TypeFor[config.ScrapeConfig]()}
		if !strings.Contains(err.Error(), "line ") {
			s.path = discoveryAt(item, path, err)
		}
		return nil, configErrors(err, s, text.Bytes())
	}
	c := cfg.ScrapeConfigs[0]
	c.SetDirectory(global.Dir)
	if err := below(path, checkClients(c.HTTPClientConfig, c.ServiceDiscoveryConfigs, false)); err != nil {
		return nil, err
	}
	return c, nil
}

// discoveryAt is the path of the discovery to blame for an error that names no line: the one that gives the same error alone.
// It is the path of the whole configuration where there is none.
func discoveryAt(item *yaml.Node, path string, err error) string {
	for i := 0; i+1 < len(item.Content); i += 2 {
		key, list := item.Content[i].Value, item.Content[i+1]
		if !strings.HasSuffix(key, "_sd_configs") || list.Kind != yaml.SequenceNode {
			continue
		}
		for j, sd := range list.Content {
			text, fault := yaml.Marshal(map[string]any{"scrape_configs": []any{map[string]any{"job_name": "x", key: []*yaml.Node{sd}}}})
			if fault != nil {
				continue
			}
			if _, alone := config.Load(string(text), slog.New(slog.DiscardHandler)); alone != nil && alone.Error() == err.Error() {
				return fmt.Sprintf("%s.%s[%d]", path, key, j)
			}
		}
	}
	return path
}

// at puts a path before each of the errors that are joined in one.
func at(path string, err error) error {
	if err == nil {
		return nil
	}
	all := apart(err)
	for i, err := range all {
		all[i] = fmt.Errorf("%s: %w", path, err)
	}
	return errors.Join(all...)
}

// below does the same, where those of discovery by Kubernetes begin with the rest of the path.
func below(path string, err error) error {
	var all []error
	for _, err := range apart(err) {
		if err != nil && strings.HasPrefix(err.Error(), "kubernetes_sd_configs[") {
			all = append(all, fmt.Errorf("%s.%w", path, err))
		} else if err != nil {
			all = append(all, fmt.Errorf("%s: %w", path, err))
		}
	}
	return errors.Join(all...)
}

// checkClients makes the HTTP clients that the scraper and discovery will make, which reads the files of TLS. Of one that
// cannot be read, Prometheus writes a line in the log and goes on without the job. here says that they are to run in this
// process, and not only to be checked.
func checkClients(c commonconfig.HTTPClientConfig, sds discovery.Configs, here bool) error {
	_, err := commonconfig.NewClientFromConfig(c, "check")
	return errors.Join(err, checkDiscoveryClients(sds, here))
}

func checkDiscoveryClients(sds discovery.Configs, here bool) error {
	var errs []error
	clusters := 0
	for _, sd := range sds {
		if sd.Name() == "kubernetes" {
			errs = append(errs, at(fmt.Sprintf("kubernetes_sd_configs[%d]", clusters), checkKubernetes(sd, here)))
			clusters++
		}
		if sd, ok := sd.(*sdhttp.SDConfig); ok {
			_, err := commonconfig.NewClientFromConfig(sd.HTTPClientConfig, "check")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// checkDiscovery names the kinds of discovery that Prometheus has and flyball has not.
func checkDiscovery(item *yaml.Node, path string) error {
	var errs []error
	for i := 0; i+1 < len(item.Content); i += 2 {
		key := item.Content[i].Value
		kind, ok := strings.CutSuffix(key, "_sd_configs")
		switch {
		case !ok || kind == "file" || kind == "http":
		case kind == "kubernetes" && withoutKubernetes != "":
			errs = append(errs, fmt.Errorf("%s.%s: %s", path, key, withoutKubernetes))
		case kind != "kubernetes":
			errs = append(errs, fmt.Errorf("%s.%s: discovery by %s is not built in: give %s", path, key, kind, discoveries))
		}
	}
	return errors.Join(errs...)
}

var (
	errorLine    = regexp.MustCompile(`^\s*line (\d+): (.*)$`)
	unknownField = regexp.MustCompile(`^field (.*?) not found in type .*$`)
	repeatedKey  = regexp.MustCompile(`^(?:field|key) "?(.*?)"? already set in (?:type .*|map)$`)
	wrongType    = regexp.MustCompile("^cannot unmarshal !!(\\w+)(?: `(.*)`)? into (.+)$")
	goType       = regexp.MustCompile(` (?:in type|into) (?:\[\]|\*)*\w+\.\w+`)
)

// maxFaults is how many faults of one configuration are told apart; who sees more has given the wrong file.
const maxFaults = 20

// section is the part of the user's file that Prometheus was given.
type section struct {
	in   string       // where it stands in the text that Prometheus got
	path string       // where it stands in the file
	root string       // the path of what has the form
	form reflect.Type // Prometheus's type, which knows the keys
}

// configErrors turns Prometheus's errors, with lines of the text that it got and names of Go types, into ours, with the
// path of the field.
func configErrors(err error, s section, text []byte) error {
	path := s.path
	var (
		errs []error
		more int
		doc  yaml.Node
	)
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for line := range strings.Lines(err.Error()) {
		m := errorLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		if len(errs) == maxFaults {
			more++
			continue
		}
		n, _ := strconv.Atoi(m[1]) // digits, by the expression
		what, name := m[2], ""
		for _, e := range []*regexp.Regexp{unknownField, repeatedKey} {
			if k := e.FindStringSubmatch(what); k != nil {
				name = k[1]
			}
		}
		field := strings.Replace(fieldAt(&doc, n, name), s.in, path, 1)
		switch {
		case unknownField.MatchString(what):
			parent, _ := strings.CutSuffix(strings.TrimPrefix(field, s.root), "."+name)
			what = fmt.Sprintf("unknown key %q%s", name, source.DidYouMean(name, keysOf(s.form, parent)))
		case repeatedKey.MatchString(what):
			what = fmt.Sprintf("the key %q is there twice", name)
		case wrongType.MatchString(what):
			t := wrongType.FindStringSubmatch(what)
			if strings.HasPrefix(path, "remote_write") {
				t[2] = "" // it may be a password where it does not belong
			}
			what = fmt.Sprintf("%s where %s is expected", given(t[1], t[2]), expected(t[3]))
		}
		errs = append(errs, fmt.Errorf("%s: %s", field, what))
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("%s: it has %d more faults", path, more))
	}
	if len(errs) == 0 {
		return fmt.Errorf("%s: %s", path, goType.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), ""))
	}
	return errors.Join(errs...)
}

// keysOf lists the keys that a value may have, by the path to it from a value of the type form, such as
// .static_configs[0]; nil where they are not known.
func keysOf(form reflect.Type, path string) []string {
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "."), ".")
	name, _, _ = strings.Cut(name, "[")
	for form.Kind() == reflect.Pointer || form.Kind() == reflect.Slice {
		form = form.Elem()
	}
	if form == reflect.TypeFor[targetgroup.Group]() {
		return []string{"targets", "labels"} // it decodes itself
	}
	if form.Kind() != reflect.Struct {
		return nil
	}
	fields := map[string]reflect.Type{}
	var collect func(t reflect.Type)
	collect = func(t reflect.Type) {
		for f := range t.Fields() {
			switch tag, options, _ := strings.Cut(f.Tag.Get("yaml"), ","); {
			case options == "inline" && f.Type.Kind() == reflect.Struct:
				collect(f.Type)
			case f.Type == reflect.TypeFor[discovery.Configs]():
				fields["static_configs"] = reflect.TypeFor[targetgroup.Group]()
				fields["file_sd_configs"] = reflect.TypeFor[file.SDConfig]()
				fields["http_sd_configs"] = reflect.TypeFor[sdhttp.SDConfig]()
				maps.Copy(fields, kubernetesForms())
			case tag != "" && tag != "-":
				fields[tag] = f.Type
			}
		}
	}
	collect(form)
	if name == "" {
		return slices.Sorted(maps.Keys(fields))
	}
	if next, ok := fields[name]; ok {
		return keysOf(next, rest)
	}
	return nil
}

// given describes a value of YAML by its tag and, for a scalar, its text.
func given(tag, text string) string {
	kind, ok := map[string]string{"seq": "a list", "map": "a mapping", "str": "text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing"}[tag]
	if !ok {
		kind = "a value"
	}
	if text != "" {
		return fmt.Sprintf("%q is %s", text, kind)
	}
	return "it is " + kind
}

// expected describes a Go type in the words of YAML.
func expected(goType string) string {
	switch {
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "text"
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		return "a whole number"
	case strings.HasPrefix(goType, "float"):
		return "a number"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	default:
		return "a mapping or another kind of value"
	}
}

// fieldAt is the path of what stands at a line of a YAML document: of the key name if it is there, or else of the last key, or
// of the item that begins there.
func fieldAt(doc *yaml.Node, line int, name string) string {
	found, at, exact := "", 0, false
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		for i, child := range n.Content {
			switch {
			case n.Kind == yaml.MappingNode && i%2 == 0:
				continue
			case n.Kind == yaml.MappingNode:
				key := n.Content[i-1]
				p := strings.TrimPrefix(path+"."+key.Value, ".")
				if !exact && at <= key.Line && key.Line <= line {
					found, at, exact = p, key.Line, key.Line == line && key.Value == name
				}
				walk(child, p)
			default:
				p := fmt.Sprintf("%s[%d]", path, i)
				if !exact && at < child.Line && child.Line <= line {
					found, at = p, child.Line
				}
				walk(child, p)
			}
		}
	}
	for _, n := range doc.Content {
		walk(n, "")
	}
	return found
}

// maxNodes is how large one configuration may grow when its aliases are filled in: a few lines of nested aliases could
// otherwise take all memory.
const maxNodes = 10_000

// withoutAliases copies the node with what its aliases stand for in their place, since their anchors may be elsewhere in
// the file. It returns nil when more nodes than room come of it.
func withoutAliases(n *yaml.Node, room *int) *yaml.Node {
	if *room--; *room < 0 {
		return nil
	}
	if n.Kind == yaml.AliasNode {
		return withoutAliases(n.Alias, room)
	}
	c := *n
	c.Anchor = ""
	c.HeadComment, c.LineComment, c.FootComment = "", "", ""
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		if c.Content[i] = withoutAliases(child, room); c.Content[i] == nil {
			return nil
		}
	}
	return &c
}
