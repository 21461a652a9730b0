package kubernetestest

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// TestPods: no pod has a privilege, an open end or a token that it does not use.
func TestPods(t *testing.T) {
	pods := 0
	for _, name := range parts {
		p := buildPart(t, name)
		for _, w := range p.workloads() {
			pods++
			spec := w.template.Spec
			fault := func(format string, args ...any) {
				t.Helper()
				t.Errorf(name+": "+w.String()+": "+format, args...)
			}
			directories, node := onNode[name]
			if s := spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || *s.RunAsNonRoot == node || s.SeccompProfile == nil ||
				s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
				fault("the pod's securityContext is %+v", s)
			}
			if spec.HostNetwork || spec.HostPID != node || spec.HostIPC {
				fault("it shares namespaces of the node, or not those that it is there for")
			}
			if node != (w.GetNamespace() == "flyball-node") {
				fault("it is in the namespace %s", w.GetNamespace())
			}
			account := spec.ServiceAccountName
			if account != "" && !p.has("ServiceAccount", w.GetNamespace(), account) {
				fault("there is no service account %s", account)
			}
			if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken != (account != "") {
				fault("automountServiceAccountToken is not said, or other than that it has a service account")
			}
			if account != "" && !slices.ContainsFunc(p.objects, func(o object) bool {
				b, ok := o.typed.(*rbac.RoleBinding)
				return ok && slices.ContainsFunc(b.Subjects, func(s rbac.Subject) bool { return s.Name == account && s.Namespace == w.GetNamespace() })
			}) {
				fault("the service account %s may do nothing", account)
			}
			for _, v := range spec.Volumes {
				switch {
				case v.ConfigMap != nil && p.has("ConfigMap", w.GetNamespace(), v.ConfigMap.Name):
				case v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil:
				case v.HostPath != nil && *v.HostPath.Type == core.HostPathDirectory && slices.Contains(directories, v.HostPath.Path):
					directories = slices.DeleteFunc(slices.Clone(directories), func(d string) bool { return d == v.HostPath.Path })
					for _, c := range w.containers() {
						for _, m := range c.VolumeMounts {
							if m.Name == v.Name && (!m.ReadOnly || m.MountPath != v.HostPath.Path) {
								fault("%s is mounted at %s, for reading: %t", v.HostPath.Path, m.MountPath, m.ReadOnly)
							}
						}
					}
				case v.PersistentVolumeClaim != nil && p.has("PersistentVolumeClaim", w.GetNamespace(), v.PersistentVolumeClaim.ClaimName):
				default:
					fault("the volume %s is of something that is not there, has no limit, or is the node's", v.Name)
				}
			}
			if len(directories) > 0 {
				fault("of the node it does not mount %v", directories)
			}
			for _, c := range w.containers() {
				checkContainer(t, name, w, c)
			}
			checkEnd(t, p, w)
		}
	}
	if pods != 8 {
		t.Errorf("%d pod templates, want 8", pods)
	}
}

func checkContainer(t *testing.T, part string, w workload, c core.Container) {
	t.Helper()
	fault := func(format string, args ...any) {
		t.Helper()
		t.Errorf(part+": "+w.String()+": container "+c.Name+": "+format, args...)
	}
	s := c.SecurityContext
	if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
		s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || s.Privileged != nil {
		fault("the securityContext is %+v", s)
	}
	if _, tag, found := strings.Cut(c.Image, ":"); !found || tag == "latest" {
		fault("the image %s has no version", c.Image)
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
		fault("the resources are %v", c.Resources)
	}
	for kind, probe := range map[string]*core.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil || !slices.ContainsFunc(c.Ports, func(p core.ContainerPort) bool { return p.Name == probe.HTTPGet.Port.StrVal }) {
			fault("there is no %s probe of one of its ports", kind)
		}
	}
	var listens []string
	for _, a := range c.Args {
		if flag, address, found := strings.Cut(a, "="); found && strings.HasSuffix(flag, "listen-address") {
			listens = append(listens, strings.TrimPrefix(address, ":"))
		}
	}
	var ports []string
	for _, p := range c.Ports {
		ports = append(ports, strconv.Itoa(int(p.ContainerPort)))
	}
	slices.Sort(listens)
	slices.Sort(ports)
	if !slices.Equal(listens, ports) {
		fault("the ports are %v, and it listens on %v", ports, listens)
	}
	for _, m := range c.VolumeMounts {
		if !slices.ContainsFunc(w.template.Spec.Volumes, func(v core.Volume) bool { return v.Name == m.Name }) {
			fault("there is no volume %s", m.Name)
		}
	}
}

// checkEnd sees that what was admitted by a proxy can be answered before the pod has to be gone.
func checkEnd(t *testing.T, p *part, w workload) {
	t.Helper()
	c := w.flyball(t)
	if argument(c, "--role") != "batchproxy" {
		return
	}
	var config struct {
		Batchproxy struct {
			Drain  any
			Models []struct{ Timeout string }
		}
	}
	if err := yaml.Unmarshal([]byte(p.config(t, w)["flyball.yml"]), &config); err != nil {
		t.Fatal(err)
	}
	duration := func(text string) time.Duration {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const known = 5 * time.Second // until nobody sends to a pod that ends
	request := duration(config.Batchproxy.Models[0].Timeout)
	var drain, delay time.Duration
	switch d := config.Batchproxy.Drain.(type) {
	case string:
		drain = duration(d)
	case map[string]any:
		delay, drain = duration(fmt.Sprint(d["delay"])), duration(fmt.Sprint(d["timeout"]))
	default:
		t.Fatalf("%s: drain is %v", w, d)
	}
	before := delay
	last := w.template.Spec.Containers[0] // what is told to end first
	if l := last.Lifecycle; l != nil && l.PreStop != nil && l.PreStop.Sleep != nil {
		before += time.Duration(l.PreStop.Sleep.Seconds) * time.Second
	}
	need := known
	if last.Name != c.Name { // the model server goes first: all is answered before
		need += request
	} else if drain < request {
		t.Errorf("%s: drain %s, and a request may take %s", w, drain, request)
	}
	if before < need {
		t.Errorf("%s: the preStop of %s and the delay of its drain are %s, want %s at least", w, last.Name, before, need)
	}
	if grace := w.template.Spec.TerminationGracePeriodSeconds; grace == nil || time.Duration(*grace)*time.Second < before+drain+5*time.Second {
		t.Errorf("%s: terminationGracePeriodSeconds is less than a preStop and delay of %s, a drain of %s and 5s to end", w, before, drain)
	}
}

// TestReferences: what an object says of others is so.
func TestReferences(t *testing.T) {
	for _, name := range parts {
		p := buildPart(t, name)
		matching := func(o object, selector labels.Selector) (all []workload) {
			for _, w := range p.workloads() {
				if w.GetNamespace() == o.GetNamespace() && selector.Matches(labels.Set(w.template.Labels)) {
					all = append(all, w)
				}
			}
			return all
		}
		one := func(o object, selector *metav1.LabelSelector) []workload {
			t.Helper()
			s, err := metav1.LabelSelectorAsSelector(selector)
			if err != nil {
				t.Fatal(err)
			}
			found := matching(o, s)
			if len(found) != 1 {
				t.Errorf("%s: %s selects %d workloads, want one", name, o, len(found))
			}
			return found
		}
		port := func(o object, ws []workload, port intstr.IntOrString) {
			t.Helper()
			for _, w := range ws {
				if !slices.ContainsFunc(w.containers(), func(c core.Container) bool {
					return slices.ContainsFunc(c.Ports, func(p core.ContainerPort) bool { return p.Name == port.StrVal && port.StrVal != "" })
				}) {
					t.Errorf("%s: %s is about the port %q, which %s has not", name, o, port.String(), w)
				}
			}
		}
		for _, o := range p.objects {
			switch typed := o.typed.(type) {
			case *core.Service:
				ws := one(o, &metav1.LabelSelector{MatchLabels: typed.Spec.Selector})
				for _, service := range typed.Spec.Ports {
					port(o, ws, service.TargetPort)
				}
			case *policy.PodDisruptionBudget:
				for _, w := range one(o, typed.Spec.Selector) {
					if d, ok := w.typed.(*apps.Deployment); ok && d.Spec.Replicas != nil && *d.Spec.Replicas < 2 {
						t.Errorf("%s: with %s no node can be drained", name, o)
					}
				}
			case *networking.NetworkPolicy:
				if len(typed.Spec.PodSelector.MatchLabels) == 0 {
					continue
				}
				ws := one(o, &typed.Spec.PodSelector)
				for _, rule := range typed.Spec.Ingress {
					for _, policed := range rule.Ports {
						port(o, ws, *policed.Port)
					}
				}
			case *rbac.RoleBinding:
				if !p.has(typed.RoleRef.Kind, typed.Namespace, typed.RoleRef.Name) {
					t.Errorf("%s: %s is of a role that is not there", name, o)
				}
				for _, s := range typed.Subjects {
					if !p.has(s.Kind, s.Namespace, s.Name) {
						t.Errorf("%s: %s is for %s %s/%s, which is not there", name, o, s.Kind, s.Namespace, s.Name)
					}
				}
			case *apps.Deployment:
				one(o, typed.Spec.Selector)
				for _, c := range typed.Spec.Template.Spec.TopologySpreadConstraints {
					one(o, c.LabelSelector)
				}
			case *apps.DaemonSet:
				one(o, typed.Spec.Selector)
			}
		}
	}
}

// TestTogether: parts that go together have no object in common, and every folder is a part and in the page.
func TestTogether(t *testing.T) {
	of := map[string]string{}
	for _, name := range []string{"namespace", "rules", "gateway", "sidecar", "exporter", "monitoring"} {
		for _, o := range buildPart(t, name).objects {
			if other, there := of[o.String()]; there {
				t.Errorf("%s is in %s and in %s", o, other, name)
			}
			of[o.String()] = name
		}
	}
	folders, err := filepath.Glob("../*/kustomization.yml")
	if err != nil {
		t.Fatal(err)
	}
	page := read(t, "../README.md")
	var names []string
	for _, f := range folders {
		name := filepath.Base(filepath.Dir(f))
		names = append(names, name)
		if !strings.Contains(page, "\n| ["+name+"]("+name+") | ") {
			t.Errorf("README.md has no line for %s", name)
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(parts)), names); diff != "" {
		t.Errorf("the folders (-tested +there):\n%s", diff)
	}
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("..", link[1])); err != nil {
			t.Errorf("README.md: %v", err)
		}
	}
}

// TestMonitors: the operator's objects select what the other parts have.
func TestMonitors(t *testing.T) {
	var others []object
	var pods []workload
	for _, name := range []string{"rules", "gateway", "sidecar", "exporter", "exporter-pods"} {
		p := buildPart(t, name)
		others, pods = append(others, p.objects...), append(pods, p.workloads()...)
	}
	var scraped []string
	for _, o := range buildPart(t, "monitoring").objects {
		switch m := o.typed.(type) {
		case *monitoring.ServiceMonitor:
			for _, other := range others {
				s, ok := other.typed.(*core.Service)
				if !ok || s.Namespace != m.Namespace || !labels.SelectorFromSet(m.Spec.Selector.MatchLabels).Matches(labels.Set(s.Labels)) {
					continue
				}
				if s.Labels[m.Spec.JobLabel] != "flyball" {
					t.Errorf("the job of %s is %q, want flyball", other, s.Labels[m.Spec.JobLabel])
				}
				for _, e := range m.Spec.Endpoints {
					if !slices.ContainsFunc(s.Spec.Ports, func(p core.ServicePort) bool { return p.Name == e.Port }) {
						t.Errorf("%s has no port %s, which %s scrapes", other, e.Port, o)
					}
				}
				scraped = append(scraped, s.Name)
			}
		case *monitoring.PodMonitor:
			namespaces := m.Spec.NamespaceSelector.MatchNames
			if len(namespaces) == 0 {
				namespaces = []string{m.Namespace}
			}
			for _, w := range pods {
				if !slices.Contains(namespaces, w.GetNamespace()) || !labels.SelectorFromSet(m.Spec.Selector.MatchLabels).Matches(labels.Set(w.template.Labels)) {
					continue
				}
				for _, e := range m.Spec.PodMetricsEndpoints {
					if e.Port == nil || !slices.ContainsFunc(w.flyball(t).Ports, func(p core.ContainerPort) bool { return p.Name == *e.Port }) {
						t.Errorf("%s has no port that %s scrapes", w, o)
					}
				}
				scraped = append(scraped, w.GetName())
			}
		case *monitoring.PrometheusRule:
			if len(m.Spec.Groups) == 0 {
				t.Error("no groups of rules")
			}
		default:
			t.Errorf("%s among the operator's objects", o)
		}
	}
	slices.Sort(scraped)
	if diff := cmp.Diff([]string{"digits", "flyball", "flyball-exporter", "flyball-exporter", "flyball-gateway"}, scraped); diff != "" {
		t.Errorf("what is scraped (-want +got):\n%s", diff)
	}
}

// TestPrometheusRule: it is what flyball renders, and every rule of the mixin is in it.
func TestPrometheusRule(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command(flyball, "mixin", "render", "-o", dir, "--set", "flyballURL=http://flyball.flyball.svc:9838").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, got := read(t, filepath.Join(dir, "kubernetes/prometheusrule.yaml")), read(t, "../monitoring/prometheusrule.yml")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it is not what is rendered: see kustomization.yml there (-want +got):\n%s", diff)
	}
	names := func(text string) map[string]int {
		var file struct {
			Groups []struct{ Rules []monitoring.Rule }
			Spec   struct {
				Groups []struct{ Rules []monitoring.Rule }
			}
		}
		if err := yaml.Unmarshal([]byte(text), &file); err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, g := range slices.Concat(file.Groups, file.Spec.Groups) {
			for _, r := range g.Rules {
				found[r.Record+r.Alert]++
			}
		}
		return found
	}
	mixin := names(read(t, "../../../mixin/out/rules.yaml"))
	for name, n := range names(read(t, "../../../mixin/out/alerts.yaml")) {
		mixin[name] += n
	}
	if got := names(got); !maps.Equal(got, mixin) || len(got) == 0 {
		t.Errorf("the rules (-mixin +here):\n%s", cmp.Diff(mixin, got))
	}
}

// TestRuleFiles: the rules that act are those that observe, but for what makes them act.
func TestRuleFiles(t *testing.T) {
	observing := read(t, "../rules/rules.yml")
	const mode = "    mode: observe           # says what it would do; act does it, if --act.enabled is given as well\n"
	acting := strings.Replace(observing, mode, "    mode: act               # with --act.enabled: does it\n", 1)
	if diff := cmp.Diff(acting, read(t, "../acting/rules.yml")); diff != "" || acting == observing {
		t.Errorf("acting/rules.yml (-want +got):\n%s", diff)
	}
	_, body, _ := strings.Cut(strings.Replace(acting, "{kind: kubernetes, name: ml/deployments.apps/llama}", "{kind: keda, name: llama}", 1), "groups:\n")
	if _, got, _ := strings.Cut(read(t, "../keda/rules.yml"), "groups:\n"); got != body {
		t.Errorf("keda/rules.yml (-want +got):\n%s", cmp.Diff(body, got))
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
