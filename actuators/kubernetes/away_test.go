package kubernetes

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"flyball/actuators"
	"flyball/actuators/kubernetes/kubetest"
)

// testLostAnswers: what the apiserver turns away is tried again, and a change that was carried out although its answer said
// otherwise is one.
func testLostAnswers(t *testing.T, c *kubetest.Cluster) {
	transport, err := rest.TransportFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	host, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	var puts atomic.Int32
	var spoil []func(http.ResponseWriter, func()) // the PUTs, in their order; those after are answered as they are
	forward := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(host) }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			if n := int(puts.Add(1)); n <= len(spoil) {
				spoil[n-1](w, func() { forward.ServeHTTP(httptest.NewRecorder(), r) })
				return
			}
		}
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\ncurrent-context: p\ncontexts: [{name: p, context: {cluster: p, user: p}}]\nclusters: [{name: p, cluster: {server: \"" +
		proxy.URL + "\"}}]\nusers: [{name: p, user: {}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(http.ResponseWriter, func())
		puts  int32
		least time.Duration
	}{
		{"turned away", func(w http.ResponseWriter, _ func()) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}, 2, time.Second},
		{"unavailable", func(w http.ResponseWriter, _ func()) { w.WriteHeader(http.StatusServiceUnavailable) }, 2, 0},
		{"carried out, and no answer", func(w http.ResponseWriter, carryOut func()) {
			carryOut()
			w.WriteHeader(http.StatusGatewayTimeout)
		}, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			puts.Store(0)
			spoil = []func(http.ResponseWriter, func()){tt.spoil}
			k := newKubernetes(t, file)
			before := observe(t, k, llama)
			to := before.Spec%4 + 1
			change := actuators.Change{From: before.Spec, To: to, IfVersion: before.Version, DecisionID: "lost-" + tt.name}
			began := time.Now()
			receipt, err := k.Apply(t.Context(), llama, change)
			if err != nil || !receipt.Changed || receipt.Spec != to {
				t.Errorf("%+v, %v; want %d replicas, changed", receipt, err, to)
			}
			// A controller that writes the status at the same time costs one more.
			if got := puts.Load(); got < tt.puts || got > tt.puts+3 {
				t.Errorf("%d writes, want %d", got, tt.puts)
			}
			if took := time.Since(began); took < tt.least {
				t.Errorf("it came back after %s, and was asked to stay away for %s", took, tt.least)
			}
			after := observe(t, k, llama)
			if after.Spec != to {
				t.Errorf("size %d, want %d", after.Spec, to)
			}
			if again, err := k.Apply(t.Context(), llama, change); err != nil || again.Changed {
				t.Errorf("the same decision again: %+v, %v; want that it changes nothing", again, err)
			}
		})
	}

	// What is refused after it was turned away, or stumbled over, ends there.
	forbidden := func(w http.ResponseWriter, _ func()) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,
			"message":"deployments.apps \"llama\" is forbidden: User \"flyball\" cannot update resource \"deployments/scale\" in API group \"apps\""}`)
	}
	answers := func(status int) func(http.ResponseWriter, func()) {
		return func(w http.ResponseWriter, _ func()) { w.WriteHeader(status) }
	}
	for _, tt := range []struct {
		name    string
		first   int
		certain bool // that nothing was changed
	}{
		{"turned away, then forbidden", http.StatusTooManyRequests, true},
		{"unavailable, then forbidden", http.StatusServiceUnavailable, false},
		{"an internal error, then forbidden", http.StatusInternalServerError, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			puts.Store(0)
			spoil = []func(http.ResponseWriter, func()){answers(tt.first), answers(tt.first), forbidden}
			k := newKubernetes(t, file)
			before := observe(t, k, llama)
			_, err := k.Apply(t.Context(), llama, actuators.Change{From: before.Spec, To: before.Spec%4 + 1, IfVersion: before.Version, DecisionID: "refused-" + tt.name})
			if err == nil || !strings.Contains(err.Error(), "resources: [deployments/scale], resourceNames: [llama], verbs: [update]") || puts.Load() != 3 {
				t.Errorf("error %v after %d writes, want the refusal after the third", err, puts.Load())
			}
			unknown := strings.Contains(fmt.Sprint(err), "whether an earlier try was carried out is not known")
			if errors.Is(err, actuators.ErrRefused) != tt.certain || unknown == tt.certain {
				t.Errorf("error %v; want that nothing was changed for certain: %v", err, tt.certain)
			}
			if got := observe(t, k, llama).Spec; got != before.Spec {
				t.Errorf("size %d, was %d", got, before.Spec)
			}
		})
	}
}

// testAway: an apiserver that is away is an error, and none any more when it is back. It comes last: it ends connections.
func testAway(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig(), func(config *Config) { config.Timeout /= 2 })
	before := observe(t, k, llama)
	c.APIServer.Kill()
	change := actuators.Change{From: before.Spec, To: before.Spec + 1, IfVersion: before.Version, DecisionID: "away"}
	_, err := k.Observe(t.Context(), llama)
	if err == nil || errors.Is(err, actuators.ErrUnknownTarget) {
		t.Errorf("observe: error %v, want one that says nothing of the target", err)
	}
	if _, err := k.Apply(t.Context(), llama, change); err == nil || errors.Is(err, actuators.ErrConflict) {
		t.Errorf("apply: error %v, want one that says nothing of the target", err)
	}
	c.APIServer.Restart()
	c.WaitReady(t)
	after := observe(t, k, llama)
	if after.Spec != before.Spec || after.Version != before.Version {
		t.Errorf("%+v, was %+v", after, before)
	}
	if receipt, err := k.Apply(t.Context(), llama, change); err != nil || !receipt.Changed {
		t.Errorf("%+v, %v; want that it is carried out", receipt, err)
	}
}
