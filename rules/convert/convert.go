package convert

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"flyball/rules"
	"flyball/rules/source"
)

// Input is a text to convert and what it is called in errors and comments.
type Input struct {
	Name string
	Text []byte
}

// Options are what the texts leave open.
type Options struct {
	Namespace string // of objects that name none; empty: default
}

// Result is a rule file.
type Result struct {
	Text  []byte
	Rules int // scale rules in it
	Left  int // fields of the originals that could not be carried over, of which comments say so
}

// converter makes a rule file of the objects of one kind.
type converter struct {
	kind     string // that is converted
	command  string // the word for it on the command line
	convert  func(*object) (*rule, error)
	groups   []string
	options  Options
	rules    []*rule
	skipped  []note
	names    map[string]bool   // of rules
	seen     map[string]bool   // objects, by namespace and name
	targets  map[string]string // the object that a target is taken by
	refused  []error           // why objects could not be converted at all
	problems []error           // faults of the input
}

// HPA converts the HorizontalPodAutoscalers in the inputs. The error is of type source.Errors where the input is at fault.
func HPA(inputs []Input, o Options) (*Result, error) {
	c := &converter{kind: hpaKind, command: "hpa", groups: []string{"autoscaling"}, options: o, convert: convertHPA}
	return c.run(inputs)
}

// ScaledObject converts KEDA's ScaledObjects in the inputs. The error is of type source.Errors where the input is at fault.
func ScaledObject(inputs []Input, o Options) (*Result, error) {
	c := &converter{kind: scaledObjectKind, command: "scaledobject", groups: []string{"keda.sh"}, options: o, convert: convertScaledObject}
	return c.run(inputs)
}

// Kinds that this package knows.
const (
	hpaKind          = "HorizontalPodAutoscaler"
	scaledObjectKind = "ScaledObject"
	scaledJobKind    = "ScaledJob"
)

func (c *converter) run(inputs []Input) (*Result, error) {
	c.names, c.seen, c.targets = map[string]bool{}, map[string]bool{}, map[string]string{}
	if c.options.Namespace == "" {
		c.options.Namespace = "default"
	}
	if !dnsName.MatchString(c.options.Namespace) {
		return nil, fmt.Errorf("%q is not the name of a namespace", c.options.Namespace)
	}
	for _, in := range inputs {
		files, err := source.ParseAll(in.Name, in.Text)
		if err != nil {
			c.problems = append(c.problems, err)
			continue
		}
		for _, f := range files {
			c.document(f)
		}
	}
	if err := source.Join(c.problems...); err != nil {
		return nil, err
	}
	if len(c.rules) == 0 {
		if err := source.Join(c.refused...); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("no %s in %s", c.kind, names(inputs))
	}
	result := c.write(inputs)
	reader := rules.Reader{}
	if _, err := reader.Parse("the rule file that was made", result.Text); err != nil {
		return nil, fmt.Errorf("convert %s: this should not happen: %w", names(inputs), err)
	}
	return result, nil
}

func names(inputs []Input) string {
	all := make([]string, len(inputs))
	for i, in := range inputs {
		all[i] = in.Name
	}
	return strings.Join(all, ", ")
}

// document converts what is in one YAML document: an object or a List of them.
func (c *converter) document(f *source.File) {
	d := f.Decoder()
	var m manifest
	d.Decode(&m)
	objects := []*manifest{&m}
	if strings.HasSuffix(m.Kind, "List") {
		objects = nil
		for i, n := range m.items {
			item := &manifest{}
			d.DecodeNode(n, fmt.Sprintf("items[%d]", i), item)
			if item.APIVersion == "" && m.Kind != "List" { // the items of a typed list may leave both out
				item.APIVersion, item.Kind = m.APIVersion, strings.TrimSuffix(m.Kind, "List")
			}
			objects = append(objects, item)
		}
	}
	if d.Len() == 0 {
		for _, m := range objects {
			c.object(&object{manifest: m, file: f, d: d})
		}
	}
	c.problems = append(c.problems, d.Err())
}

// object converts an object, or says in a comment why not.
func (c *converter) object(o *object) {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	switch {
	case o.Kind == "" || o.APIVersion == "":
		o.fault("", "not an object of Kubernetes: kind and apiVersion are needed")
		return
	case o.Kind == c.kind && !slices.Contains(c.groups, group):
		o.fault("apiVersion", "apiVersion is %q: a %s is of %s", o.APIVersion, c.kind, strings.Join(c.groups, " or "))
		return
	case o.Kind != c.kind:
		c.other(o)
		return
	}
	if !o.named(c.options.Namespace) {
		return
	}
	id := o.Meta.Namespace + "/" + o.Meta.Name
	if c.seen[id] {
		c.skip(o, "it was there before")
		return
	}
	c.seen[id] = true
	for _, owner := range o.Meta.Owners {
		if owner.Kind == scaledObjectKind && c.kind == hpaKind {
			c.skip(o, "KEDA made it for ScaledObject %s: convert that, with flyball convert scaledobject", owner.Name)
			return
		}
	}
	r, err := c.convert(o)
	switch {
	case o.d.Len() > 0 || r == nil && err == nil:
		return // told
	case err != nil:
		c.refuse(o, "%s", err)
		return
	}
	if first, taken := c.targets[r.target]; taken {
		c.skip(o, "its target %s is already scaled by %s: two would fight over it", r.target, first)
		return
	}
	c.targets[r.target] = o.String()
	r.name = o.Meta.Name
	if c.names[r.name] {
		r.name = id
	}
	c.names[r.name], c.names[id] = true, true
	r.title = o.String()
	r.origin = fmt.Sprintf("%s:%d", o.file.Name, o.file.Line(o.path))
	r.group = c.command + "/" + id
	c.rules = append(c.rules, r)
}

// other says what becomes of an object of another kind.
func (c *converter) other(o *object) {
	switch o.Kind {
	case scaledJobKind:
		c.refuse(o, "it starts a Job for each piece of work, and has no size that a rule could set")
	case hpaKind:
		c.skip(o, "flyball convert hpa converts it")
	case scaledObjectKind:
		c.skip(o, "flyball convert scaledobject converts it")
	default:
		c.skip(o, "it is not a %s", c.kind)
	}
}

func (c *converter) skip(o *object, format string, args ...any) {
	c.skipped = append(c.skipped, say("%s is left out: %s.", o, fmt.Sprintf(format, args...)))
}

// refuse says that an object cannot be converted: an error, if there is no other that can be.
func (c *converter) refuse(o *object, format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	d := o.file.Decoder()
	d.FaultAt(o.at("kind"), 0, "%s cannot be converted: %s", o, why)
	c.refused = append(c.refused, d.Err())
	c.skipped = append(c.skipped, lost("%s: %s.", o, why))
}

// manifest is what of any object says what it is.
type manifest struct {
	APIVersion string
	Kind       string
	Meta       metadata
	path       string
	spec       *yaml.Node
	items      []*yaml.Node
}

// metadata is what conversion needs of it.
type metadata struct {
	Name        string
	Namespace   string
	Annotations map[string]string
	Owners      []owner
}

type owner struct{ Kind, Name string }

// DecodeNode takes what it knows; status and the like are anything.
func (m *manifest) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	m.path = path
	if n.Kind != yaml.MappingNode {
		d.Fault(n, "expected an object of Kubernetes: apiVersion, kind, metadata and spec")
		return
	}
	d.Entries(n, func(key string, value *yaml.Node) {
		at := join(path, key)
		switch key {
		case "apiVersion":
			d.DecodeNode(value, at, &m.APIVersion)
		case "kind":
			d.DecodeNode(value, at, &m.Kind)
		case "metadata":
			d.DecodeNode(value, at, &m.Meta)
		case "spec":
			m.spec = value
		case "items":
			if value.Kind != yaml.SequenceNode {
				d.Fault(value, "items is not a list")
				return
			}
			m.items = value.Content
		}
	})
}

// DecodeNode takes what it knows of the many keys.
func (m *metadata) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	d.Entries(n, func(key string, value *yaml.Node) {
		at := join(path, key)
		switch key {
		case "name":
			d.DecodeNode(value, at, &m.Name)
		case "namespace":
			d.DecodeNode(value, at, &m.Namespace)
		case "annotations":
			d.DecodeNode(value, at, &m.Annotations)
		case "ownerReferences":
			d.DecodeNode(value, at, &m.Owners)
		}
	})
}

// DecodeNode takes what it knows.
func (o *owner) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	d.Entries(n, func(key string, value *yaml.Node) {
		switch key {
		case "kind":
			d.DecodeNode(value, join(path, key), &o.Kind)
		case "name":
			d.DecodeNode(value, join(path, key), &o.Name)
		}
	})
}

// object is one that is being converted.
type object struct {
	*manifest
	file *source.File
	d    *source.Decoder
}

// String is the kind and the name.
func (o *object) String() string {
	name := o.Meta.Name
	if o.Meta.Namespace != "" {
		name = o.Meta.Namespace + "/" + name
	}
	return strings.TrimSpace(clean(o.Kind + " " + name))
}

func (o *object) at(path string) string { return join(o.path, path) }

// fault notes what is wrong at a path within the object.
func (o *object) fault(path, format string, args ...any) {
	o.d.FaultAt(o.at(path), 0, format, args...)
}

// decode decodes the spec, and says whether it is right so far.
func (o *object) decode(spec any) bool {
	if o.spec == nil {
		o.fault("spec", "%s has no spec", o)
		return false
	}
	before := o.d.Len()
	o.d.DecodeNode(o.spec, o.at("spec"), spec)
	return o.d.Len() == before
}

// What names in Kubernetes look like, and kinds.
var (
	dnsName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	kindName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,62}$`)
)

// named sees that the object has a name and a namespace.
func (o *object) named(namespace string) bool {
	if o.Meta.Namespace == "" {
		o.Meta.Namespace = namespace
	}
	for _, n := range []struct{ path, name string }{{"metadata.name", o.Meta.Name}, {"metadata.namespace", o.Meta.Namespace}} {
		switch {
		case n.name == "":
			o.fault(n.path, "%s: missing", n.path)
			return false
		case !dnsName.MatchString(n.name):
			o.fault(n.path, "%s is %q: expected lower case letters, digits, - and .", n.path, n.name)
			return false
		}
	}
	return true
}

// errNoTarget says that a reference was faulty and has been told.
var errNoTarget = errors.New("no target")

// targetRef names what is scaled.
type targetRef struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Name       string `yaml:"name"`
	Container  string `yaml:"envSourceContainerName"` // of KEDA
}

// target is the name by which the actuator for Kubernetes knows what is scaled: namespace/resource.group/name.
func (o *object) target(ref *targetRef) (string, []note, error) {
	before := o.d.Len()
	for _, n := range []struct {
		key, value string
		form       *regexp.Regexp
	}{{"kind", ref.Kind, kindName}, {"name", ref.Name, dnsName}} {
		switch path := "spec.scaleTargetRef." + n.key; {
		case n.value == "":
			o.fault(path, "%s: missing: what is scaled", path)
		case !n.form.MatchString(n.value):
			o.fault(path, "%s is %q: not a %s of Kubernetes", path, n.value, n.key)
		}
	}
	group, _, found := strings.Cut(ref.APIVersion, "/")
	if !found {
		group = "" // v1, of the core group
	}
	if group != "" && !dnsName.MatchString(group) {
		o.fault("spec.scaleTargetRef.apiVersion", "spec.scaleTargetRef.apiVersion is %q: expected a group and a version, such as apps/v1", ref.APIVersion)
	}
	if o.d.Len() > before {
		return "", nil, errNoTarget
	}
	resource, known := plural(ref.Kind)
	if group != "" {
		resource += "." + group
	}
	notes := []note{say("spec.scaleTargetRef: %s %s (%s).", ref.Kind, ref.Name, ref.APIVersion)}
	if !known {
		notes = append(notes, say("The plural is a guess: see kubectl api-resources --api-group=%s.", group))
	}
	if ref.Kind == "ReplicaSet" && ref.APIVersion == "" || group == "" && ref.Kind != "ReplicationController" {
		notes = append(notes, say("The reference gives no group: give the one of kubectl api-resources after the resource, such as deployments.apps."))
	}
	return o.Meta.Namespace + "/" + resource + "/" + ref.Name, notes, nil
}

// plural is a kind as the API names its resource, and whether that is known rather than made by the usual rule.
func plural(kind string) (resource string, known bool) {
	word := strings.ToLower(kind)
	switch kind {
	case "Deployment", "StatefulSet", "ReplicaSet", "ReplicationController", "LeaderWorkerSet", "Rollout", "InferenceService":
		return word + "s", true
	}
	switch {
	case strings.HasSuffix(word, "s"), strings.HasSuffix(word, "x"), strings.HasSuffix(word, "ch"), strings.HasSuffix(word, "sh"):
		return word + "es", false
	case strings.HasSuffix(word, "y"):
		return strings.TrimSuffix(word, "y") + "ies", false
	}
	return word + "s", false
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}
