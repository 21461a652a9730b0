package kubernetes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTarget(t *testing.T) {
	config := DefaultConfig()
	config.Resources = map[string]Resource{"fleets.example.com": {Replicas: "/spec/pools/{name}/size"}}
	for _, tt := range []struct {
		name string
		want ref
		err  string // part of it; empty for none
	}{
		{name: "ml/deployments.apps/llama", want: ref{namespace: "ml", resource: "deployments.apps", name: "llama"}},
		{name: "ml/replicationcontrollers/llama", want: ref{namespace: "ml", resource: "replicationcontrollers", name: "llama"}},
		{name: "ml/leaderworkersets.leaderworkerset.x-k8s.io/llama.70b", want: ref{namespace: "ml", resource: "leaderworkersets.leaderworkerset.x-k8s.io", name: "llama.70b"}},
		{name: "ml/rayservices.ray.io/llama/gpu", want: ref{namespace: "ml", resource: "rayservices.ray.io", name: "llama", part: "gpu"}},
		{name: "ml/fleets.example.com/llama/gpu", want: ref{namespace: "ml", resource: "fleets.example.com", name: "llama", part: "gpu"}},
		{name: "ml/deployments.example.com/llama", want: ref{namespace: "ml", resource: "deployments.example.com", name: "llama"}},

		{name: "llama", err: "is not namespace/resource.group/name, as in ml/deployments.apps/llama"},
		{name: "ml/llama", err: "is not namespace/resource.group/name"},
		{name: "ml/deployment/llama", err: `"deployment" is no resource (did you mean "deployments.apps"?)`},
		{name: "ml/deployment.apps/llama", err: `did you mean "deployments.apps"?`},
		{name: "ml/Deployment/llama", err: `did you mean "deployments.apps"?`},
		{name: "ml/deployments/llama", err: `did you mean "deployments.apps"?`},
		{name: "ml/sts/llama", err: `did you mean "statefulsets.apps"?`},
		{name: "ml/Llamas.example.com/llama", err: "is no resource: give it in the plural and with its group"},
		{name: "ML/deployments.apps/llama", err: `"ML" is no namespace`},
		{name: "ml/deployments.apps/Llama", err: `"Llama" is no name of an object`},
		{name: "ml/deployments.apps/llama/gpu", err: "deployments.apps have no parts that could be named"},
		{name: "ml/deployments.apps/llama/", err: "ends in a slash"},
		{name: "ml/rayservices.ray.io/llama", err: "name the groupName as well"},
		{name: "apps/v1/Deployment/ml/llama", err: "is not namespace/resource.group/name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := config.parse(tt.name)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(ref{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.String() != tt.name {
				t.Errorf("it reads %s", got)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Config)
		want []string // of each fault, in order
	}{
		{name: "the defaults", edit: func(*Config) {}},
		{
			name: "numbers",
			edit: func(c *Config) { c.QPS, c.Burst, c.Timeout, c.MaxReplicas = 0, 0, 0, 0 },
			want: []string{"qps: 0 sends nothing", "burst: 0 sends nothing", "timeout: 0s leaves no time", "max_replicas: 0 allows no replica"},
		},
		{
			name: "nobody is in charge",
			edit: func(c *Config) { c.Conflict = "fight" },
			want: []string{`conflict: "fight" is none of refuse, floor, adopt`},
		},
		{
			name: "a context of no file",
			edit: func(c *Config) { c.Context = "prod" },
			want: []string{"context: it is one of a kubeconfig: give kubeconfig as well"},
		},
		{
			name: "resources",
			edit: func(c *Config) {
				c.Resources = map[string]Resource{
					"llama":               {},
					"llamas.example.com":  {Replicas: "spec/size", Ready: "/status/{x}/ready", Unset: -1},
					"llamas2.example.com": {Replicas: "/spec/{name}"},
					"rs":                  {},
				}
			},
			want: []string{
				`resources.llamas.example.com.replicas: "spec/size" is not a JSON pointer`,
				"resources.llamas.example.com.ready: it cannot name an element of a list",
				"resources.llamas.example.com.unset: -1 is no size",
				`resources.llamas2.example.com.replicas: "/spec/{name}": {name} has to be between fields`,
				`resources: "rs" is no resource (did you mean "replicasets.apps"?)`,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := DefaultConfig()
			tt.edit(&config)
			var got []string
			if err := config.Validate(); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) {
				t.Fatalf("%d faults, want %d:\n%s", len(got), len(tt.want), strings.Join(got, "\n"))
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("fault %d is %q, want it to begin with %q", i, got[i], want)
				}
			}
		})
	}
}

// TestKubeconfig: what is wrong with a kubeconfig is said by the names of files and contexts, with nothing of what is in it.
func TestKubeconfig(t *testing.T) {
	const secret = "s3cr3t"
	const good = `apiVersion: v1
kind: Config
current-context: prod
contexts: [{name: prod, context: {cluster: c, user: u}}, {name: lost, context: {cluster: gone, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: s3cr3t}}]
`
	for _, tt := range []struct {
		name, text, context string
		want                string // empty: it is fine
	}{
		{name: "good", text: good},
		{name: "other context", text: good, context: "test", want: `context: FILE has no context "test": it has lost, prod`},
		{name: "no cluster", text: good, context: "lost", want: `kubeconfig: the context "lost" of FILE is not usable`},
		{name: "no current context", text: strings.Replace(good, "current-context: prod\n", "", 1), want: `kubeconfig: FILE has no context ""`},
		{name: "not YAML", text: "users: [{token: s3cr3t", want: "kubeconfig: FILE is not one"},
		{name: "a text for a list", text: strings.Replace(good, "users: [{name: u, user: {token: s3cr3t}}]", "users: s3cr3t", 1), want: "kubeconfig: FILE is not one"},
		{name: "a key that is none", text: strings.Replace(good, "token: s3cr3t", "client-key-data: s3cr3t", 1), want: "kubeconfig: FILE is not one"},
		{name: "a password in an address", text: strings.Replace(good, "https://127", "https://u:s3cr3t@:%zz:127", 1), want: "kubeconfig: no client can be made of it"},
		{name: "a certificate that is not there", text: strings.Replace(good, "token: s3cr3t", "token: s3cr3t, client-certificate: gone.crt", 1), want: "kubeconfig: FILE: open DIR/gone.crt: no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			config := DefaultConfig()
			config.Kubeconfig, config.Context = "kubeconfig", tt.context
			config.SetDirectory(dir)
			if err := os.WriteFile(filepath.Join(dir, "kubeconfig"), []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := New(Options{}).Prepare(&config)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			want := strings.NewReplacer("FILE", filepath.Join(dir, "kubeconfig"), "DIR", dir).Replace(tt.want)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error %v, want one that begins with %q", err, want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error tells what is secret: %v", err)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		config := DefaultConfig()
		config.Kubeconfig = filepath.Join(t.TempDir(), "none")
		if err := config.Validate(); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("error %v, want that there is none", err)
		}
	})
	t.Run("no pod", func(t *testing.T) {
		t.Setenv("KUBERNETES_SERVICE_HOST", "")
		config := DefaultConfig()
		if err := config.Validate(); err != nil {
			t.Errorf("a configuration for a pod cannot be checked elsewhere: %v", err)
		}
		_, err := New(Options{}).Prepare(&config)
		if want := "kubeconfig: this process does not run in a pod"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	})
}
