package kubernetes

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Config is how the cluster is reached, and what of it has a size.
type Config struct {
	// Kubeconfig is the path of a kubeconfig; empty for the service account of the pod that flyball runs in.
	Kubeconfig string `yaml:"kubeconfig"`

	// Context is that of the kubeconfig; empty for its current-context.
	Context string `yaml:"context"`

	// QPS is how many requests a second go to the apiserver, in the long run, and Burst how many at once.
	QPS   float64 `yaml:"qps"`
	Burst int     `yaml:"burst"`

	// Timeout is how long one look at a target, or one change of it, may take with its retries.
	Timeout model.Duration `yaml:"timeout"`

	// MaxReplicas is the largest size that Apply takes, whatever a rule says.
	MaxReplicas int `yaml:"max_replicas"`

	// Conflict says what becomes of a change where an HPA or a ScaledObject sets the size of the same target.
	Conflict Conflict `yaml:"conflict"`

	// Conflicts says the same for single targets, by their names. It is part of the configuration and no annotation of the
	// workload, as who may edit a workload could else have flyball change an autoscaler by a right that is flyball's, and as a
	// Role with the scale subresource alone does not let an annotation be read. Where it, or Conflict, no longer says floor or
	// adopt of a target, the next change of the target, or Release, gives the autoscaler back as it was.
	Conflicts map[string]Conflict `yaml:"conflicts"`

	// Events says whether changes and refusals are told as Events on their objects.
	Events bool `yaml:"events"`

	// Annotate says whether each object has the last change in its annotation flyball/last-decision. It takes patch on the
	// object itself, which can change more than a size.
	Annotate bool `yaml:"annotate"`

	// Resources say where the objects of a resource (in the plural, with its group: llms.example.com) keep their sizes.
	// Those of DefaultResources need not be given.
	Resources map[string]Resource `yaml:"resources"`
}

// Resource is where the objects of one resource keep their sizes, as JSON pointers.
type Resource struct {
	// Replicas is the field to change; empty for the scale subresource. An element of a list is named by one of its own
	// fields, whose value is the fourth element of the target's name: /spec/workerGroupSpecs/{groupName}/replicas.
	Replicas string `yaml:"replicas"`

	// Unset is the size that an object has without that field.
	Unset int `yaml:"unset"`

	// Ready is the field with the number of ready replicas; empty for /status/readyReplicas where there is one, and else for
	// what the scale subresource has in its status.
	Ready string `yaml:"ready"`
}

// DefaultConfig returns what holds where the configuration says nothing.
func DefaultConfig() Config {
	return Config{
		// A look at a target is one request, or two at a custom resource, so 200 a second are 1,500 targets each 15 s at the least,
		// and of 500 changes that are ready at once the last is asked for within 2 s. As many at once are what an apiserver has seats for by default (changes: 200); its own
		// fairness protects it from more. With client-go's default of 5 the 500th would wait for a minute and a half.
		QPS:   200,
		Burst: 200,
		// Less than the interval of rules, so that an apiserver that hangs costs one evaluation.
		Timeout: model.Duration(10 * time.Second),
		// More than most clusters have accelerators: more is rather a rule gone wrong.
		MaxReplicas: 100,
		// Two that set one size undo each other; who is to give way is for a person to say.
		Conflict: ConflictRefuse,
		Events:   true,
	}
}

// SetDefaults sets the values of DefaultConfig; what reads a configuration calls it before the file's own values.
func (c *Config) SetDefaults() { *c = DefaultConfig() }

// DefaultResources are the resources whose fields are known. That of readyReplicas in the status of workloads is left out of
// an object while it is 0, so its absence alone does not tell that there is none.
func DefaultResources() map[string]Resource {
	workload := Resource{Ready: "/status/readyReplicas"}
	return map[string]Resource{
		"deployments.apps":                          workload,
		"statefulsets.apps":                         workload,
		"replicasets.apps":                          workload,
		"replicationcontrollers":                    workload,
		"leaderworkersets.leaderworkerset.x-k8s.io": workload,

		// KServe has no scale subresource; its own autoscaler starts from minReplicas, which is 1 where it is not given.
		"inferenceservices.serving.kserve.io": {Replicas: "/spec/predictor/minReplicas", Unset: 1},
		"rayclusters.ray.io":                  {Replicas: "/spec/workerGroupSpecs/{groupName}/replicas"},
		"rayservices.ray.io":                  {Replicas: "/spec/rayClusterConfig/workerGroupSpecs/{groupName}/replicas"},
		// Floors: the HPA, or KEDA's, stays in charge of what is above.
		"horizontalpodautoscalers.autoscaling": {Replicas: "/spec/minReplicas", Unset: 1, Ready: "/status/currentReplicas"},
		"scaledobjects.keda.sh":                {Replicas: "/spec/minReplicaCount"},
	}
}

// resource returns what is known of a resource.
func (c *Config) resource(name string) Resource {
	if r, given := c.Resources[name]; given {
		return r
	}
	return DefaultResources()[name]
}

// ConflictOf is what becomes of a change of a target, by its name, that an autoscaler has.
func (c *Config) ConflictOf(target string) Conflict {
	if of, given := c.Conflicts[target]; given {
		return of
	}
	return c.Conflict
}

// SetDirectory makes the path of the kubeconfig relative to the folder of the configuration file.
func (c *Config) SetDirectory(dir string) {
	if c.Kubeconfig != "" && !filepath.IsAbs(c.Kubeconfig) {
		c.Kubeconfig = filepath.Join(dir, c.Kubeconfig)
	}
}

// Validate returns all faults joined. Each begins with the path of the field. It reads the kubeconfig, if there is to be one,
// and asks no server.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Kubeconfig != "" {
		if _, err := c.rest(); err != nil {
			faults = append(faults, err)
		}
	} else if c.Context != "" {
		fault("context: it is one of a kubeconfig: give kubeconfig as well")
	}
	if c.QPS <= 0 {
		fault("qps: %g sends nothing: give more than 0, such as 200", c.QPS)
	}
	if c.Burst < 1 {
		fault("burst: %d sends nothing: give 1 or more", c.Burst)
	}
	if c.Timeout <= 0 {
		fault("timeout: %s leaves no time: give more than 0s, such as 10s", time.Duration(c.Timeout))
	}
	if c.MaxReplicas < 1 {
		fault("max_replicas: %d allows no replica: give 1 or more", c.MaxReplicas)
	}
	known := []Conflict{ConflictRefuse, ConflictFloor, ConflictAdopt}
	if !slices.Contains(known, c.Conflict) {
		fault("conflict: %q is none of refuse, floor, adopt", string(c.Conflict))
	}
	for _, target := range slices.Sorted(maps.Keys(c.Conflicts)) {
		if err := c.CheckTarget(target); err != nil {
			fault("conflicts.%s: %w", target, err)
		}
		if of := c.Conflicts[target]; !slices.Contains(known, of) {
			fault("conflicts.%s: %q is none of refuse, floor, adopt", target, string(of))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Resources)) {
		r := c.Resources[name]
		if err := checkResource(name); err != nil {
			fault("resources: %w", err)
		}
		for _, p := range []struct{ key, pointer string }{{"replicas", r.Replicas}, {"ready", r.Ready}} {
			if _, err := parsePointer(p.pointer); err != nil {
				fault("resources.%s.%s: %w", name, p.key, err)
			}
		}
		if strings.Contains(r.Ready, "{") {
			fault("resources.%s.ready: it cannot name an element of a list", name)
		}
		if r.Unset < 0 {
			fault("resources.%s.unset: %d is no size: give 0 or more", name, r.Unset)
		}
	}
	return errors.Join(faults...)
}

// rest is the address and the credentials. Errors name files and contexts, and never have anything of what is in a file.
func (c *Config) rest() (*rest.Config, error) {
	if c.Kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("kubeconfig: this process does not run in a pod: give the path of a kubeconfig")
		}
		if err != nil {
			return nil, fmt.Errorf("kubeconfig: the pod's service account: %w", err)
		}
		return cfg, nil
	}
	loaded, err := clientcmd.LoadFromFile(c.Kubeconfig)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("kubeconfig: %w", err)
	case err != nil:
		return nil, fmt.Errorf("kubeconfig: %s is not one: kubectl config view --kubeconfig=%[1]s says why", c.Kubeconfig)
	}
	context := c.Context
	if context == "" {
		context = loaded.CurrentContext
	}
	if known := slices.Sorted(maps.Keys(loaded.Contexts)); !slices.Contains(known, context) {
		key := "context"
		if c.Context == "" {
			key = "kubeconfig"
		}
		return nil, fmt.Errorf("%s: %s has no context %q: it has %s", key, c.Kubeconfig, context, orNone(known))
	}
	if err := clientcmd.ResolveLocalPaths(loaded); err != nil {
		return nil, fmt.Errorf("kubeconfig: %s: a path in it cannot be resolved", c.Kubeconfig)
	}
	if err := filesOf(loaded, context); err != nil {
		return nil, fmt.Errorf("kubeconfig: %s: %w", c.Kubeconfig, err)
	}
	cfg, err := clientcmd.NewNonInteractiveClientConfig(*loaded, context, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: the context %q of %s is not usable: kubectl --kubeconfig=%[2]s --context=%[1]s version says why", context, c.Kubeconfig)
	}
	return cfg, nil
}

// filesOf says which of the files that a context refers to cannot be read.
func filesOf(k *clientcmdapi.Config, context string) error {
	var files []string
	if cluster := k.Clusters[k.Contexts[context].Cluster]; cluster != nil {
		files = append(files, cluster.CertificateAuthority)
	}
	if user := k.AuthInfos[k.Contexts[context].AuthInfo]; user != nil {
		files = append(files, user.ClientCertificate, user.ClientKey, user.TokenFile)
	}
	for _, name := range files {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// ref is a target's name, taken apart.
type ref struct {
	namespace string
	resource  string // with the group, as in deployments.apps
	name      string
	part      string // of the object; empty for the whole
}

func (r ref) String() string {
	s := r.namespace + "/" + r.resource + "/" + r.name
	if r.part != "" {
		s += "/" + r.part
	}
	return s
}

// CheckTarget says what is wrong with the name of a target.
func (c *Config) CheckTarget(name string) error {
	_, err := c.parse(name)
	return err
}

// parse takes a target's name apart.
func (c *Config) parse(name string) (ref, error) {
	field := strings.Split(name, "/")
	if len(field) < 3 || len(field) > 4 {
		return ref{}, fmt.Errorf("%q is not namespace/resource.group/name, as in ml/deployments.apps/llama", name)
	}
	r := ref{namespace: field[0], resource: field[1], name: field[2]}
	if faults := validation.IsDNS1123Label(r.namespace); len(faults) > 0 {
		return ref{}, fmt.Errorf("%q: %q is no namespace: %s", name, r.namespace, faults[0])
	}
	if err := checkResource(r.resource); err != nil {
		return ref{}, fmt.Errorf("%q: %w", name, err)
	}
	if faults := validation.IsDNS1123Subdomain(r.name); len(faults) > 0 {
		return ref{}, fmt.Errorf("%q: %q is no name of an object: %s", name, r.name, faults[0])
	}
	if len(field) == 4 {
		if r.part = field[3]; r.part == "" {
			return ref{}, fmt.Errorf("%q ends in a slash", name)
		}
	}
	pointer, err := parsePointer(c.resource(r.resource).Replicas)
	if err != nil {
		return ref{}, err
	}
	switch key := pointer.key(); {
	case key != "" && r.part == "":
		return ref{}, fmt.Errorf("%q: name the %s as well, as in %[1]s/workers", name, key)
	case key == "" && r.part != "":
		return ref{}, fmt.Errorf("%q: %s have no parts that could be named: leave out /%s", name, r.resource, r.part)
	}
	return r, nil
}

// resourceName is a resource in the plural and, unless it is of the core group, its group.
var resourceName = regexp.MustCompile(`^[a-z][a-z0-9-]*(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// usual is what the workloads are called at a prompt.
var usual = map[string]string{
	"deploy": "deployments.apps", "deployment": "deployments.apps", "deployments": "deployments.apps",
	"sts": "statefulsets.apps", "statefulset": "statefulsets.apps", "statefulsets": "statefulsets.apps",
	"rs": "replicasets.apps", "replicaset": "replicasets.apps", "replicasets": "replicasets.apps",
	"hpa": "horizontalpodautoscalers.autoscaling", "horizontalpodautoscalers": "horizontalpodautoscalers.autoscaling",
	"lws": "leaderworkersets.leaderworkerset.x-k8s.io", "leaderworkersets": "leaderworkersets.leaderworkerset.x-k8s.io",
	"isvc": "inferenceservices.serving.kserve.io", "inferenceservices": "inferenceservices.serving.kserve.io",
	"inferenceservice": "inferenceservices.serving.kserve.io", "leaderworkerset": "leaderworkersets.leaderworkerset.x-k8s.io",
	"horizontalpodautoscaler": "horizontalpodautoscalers.autoscaling", "rc": "replicationcontrollers", "replicationcontroller": "replicationcontrollers",
	"rayservice": "rayservices.ray.io", "rayservices": "rayservices.ray.io", "raycluster": "rayclusters.ray.io", "rayclusters": "rayclusters.ray.io",
	"so": "scaledobjects.keda.sh", "scaledobject": "scaledobjects.keda.sh", "scaledobjects": "scaledobjects.keda.sh",
}

func checkResource(name string) error {
	first, group, grouped := strings.Cut(strings.ToLower(name), ".")
	if meant := usual[first]; meant != "" && meant != name {
		if _, of, _ := strings.Cut(meant, "."); !grouped || group == of {
			return fmt.Errorf("%q is no resource (did you mean %q?)", name, meant)
		}
	}
	if !resourceName.MatchString(name) {
		return fmt.Errorf("%q is no resource: give it in the plural and with its group, as in deployments.apps", name)
	}
	return nil
}
