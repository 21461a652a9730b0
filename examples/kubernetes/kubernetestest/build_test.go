package kubernetestest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil" // for its module, which has the definitions of its kinds
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// parts are the folders of examples/kubernetes that kubectl apply -k takes.
var parts = []string{"namespace", "rules", "acting", "keda", "embedded", "gateway", "sidecar", "exporter", "exporter-pods", "monitoring"}

// onNode are the parts that see something of their node, and the directories of it that they mount for reading. They have a
// namespace of their own, and run as root without a capability.
var onNode = map[string][]string{"exporter-pods": {"/var/lib/kubelet/pod-resources", "/var/log/pods"}}

// flyball is the program, which TestMain builds.
var flyball string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "kubernetestest")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		flyball = filepath.Join(dir, "flyball")
		build := exec.Command("go", "build", "-o", flyball, "./cmd/flyball")
		build.Dir = "../../.."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build flyball: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// part is what kustomize makes of a folder.
type part struct {
	name    string
	text    string // all objects, as YAML
	objects []object
}

// object is one of them, decoded with no field left over.
type object struct {
	metav1.Object
	typed runtime.Object
	kind  string
}

func (o object) String() string { return o.kind + " " + o.GetNamespace() + "/" + o.GetName() }

// buildPart builds a folder and decodes all that is in it.
func buildPart(t *testing.T, name string) *part {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join("..", name))
	if err != nil {
		t.Fatalf("kustomize build %s: %v", name, err)
	}
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, monitoring.AddToScheme} {
		if err := add(known); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	p := &part{name: name}
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		p.text += string(text) + "---\n"
		decoded, kind, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Errorf("%s: %s: %v", name, r.CurId(), err)
			continue
		}
		p.objects = append(p.objects, object{decoded.(metav1.Object), decoded, kind.Kind})
	}
	if len(p.objects) == 0 {
		t.Fatalf("%s: nothing is built", name)
	}
	return p
}

func (p *part) has(kind, namespace, name string) bool {
	return slices.ContainsFunc(p.objects, func(o object) bool {
		return o.kind == kind && o.GetNamespace() == namespace && o.GetName() == name
	})
}

// workload is what has pods.
type workload struct {
	object
	template core.PodTemplateSpec
}

func (p *part) workloads() (all []workload) {
	for _, o := range p.objects {
		switch w := o.typed.(type) {
		case *apps.Deployment:
			all = append(all, workload{o, w.Spec.Template})
		case *apps.DaemonSet:
			all = append(all, workload{o, w.Spec.Template})
		}
	}
	return all
}

// containers are those of a pod, with those that run beside it.
func (w workload) containers() []core.Container {
	return slices.Concat(w.template.Spec.InitContainers, w.template.Spec.Containers)
}

// flyball is the container that is flyball.
func (w workload) flyball(t *testing.T) core.Container {
	t.Helper()
	for _, c := range w.containers() {
		if strings.HasPrefix(c.Image, "flyball:") {
			return c
		}
	}
	t.Fatalf("%s has no flyball", w)
	return core.Container{}
}

// config is what the ConfigMap has that is mounted where the arguments of flyball have its configuration.
func (p *part) config(t *testing.T, w workload) map[string]string {
	t.Helper()
	c := w.flyball(t)
	dir := filepath.Dir(argument(c, "--config.file"))
	for _, m := range c.VolumeMounts {
		if m.MountPath != dir {
			continue
		}
		if m.SubPath != "" || !m.ReadOnly {
			t.Errorf("%s: %s is mounted by subPath, which never changes, or writable", w, dir)
		}
		for _, v := range w.template.Spec.Volumes {
			if v.Name != m.Name || v.ConfigMap == nil {
				continue
			}
			for _, o := range p.objects {
				if data, ok := o.typed.(*core.ConfigMap); ok && o.GetName() == v.ConfigMap.Name && o.GetNamespace() == w.GetNamespace() {
					return data.Data
				}
			}
		}
	}
	t.Fatalf("%s: no ConfigMap is mounted at %s", w, dir)
	return nil
}

// argument is the value of a flag.
func argument(c core.Container, flag string) string {
	for _, a := range c.Args {
		if value, found := strings.CutPrefix(a, flag+"="); found {
			return value
		}
	}
	return ""
}
