package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// slicesServer answers for EndpointSlices as an apiserver does that lists, then watches.
type slicesServer struct {
	*httptest.Server
	refuse func(http.ResponseWriter, *http.Request) bool // what it answers instead

	mu       sync.Mutex // guards what follows
	items    []discoveryv1.EndpointSlice
	version  int
	watchers []chan []byte // of events; nil ends the watch
	open     int           // watches
	asked    []string
}

func newSlicesServer(t *testing.T) *slicesServer {
	t.Helper()
	s := &slicesServer{version: 1, refuse: func(http.ResponseWriter, *http.Request) bool { return false }}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *slicesServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.Path+"?"+q.Get("labelSelector"))
	refuse := s.refuse
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case refuse(w, r):
	case q.Get("sendInitialEvents") != "": // as before Kubernetes 1.32: the client lists then
		status(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden")
	case q.Get("watch") == "":
		s.mu.Lock()
		list := discoveryv1.EndpointSliceList{Items: s.items}
		list.Kind, list.APIVersion, list.ResourceVersion = "EndpointSliceList", "discovery.k8s.io/v1", fmt.Sprint(s.version)
		text, _ := json.Marshal(list)
		s.mu.Unlock()
		_, _ = w.Write(text)
	default:
		events := make(chan []byte, 10)
		s.mu.Lock()
		s.watchers = append(s.watchers, events)
		s.open++
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.open--
		}()
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case e := <-events:
				if e == nil {
					return
				}
				_, _ = w.Write(e)
				_ = http.NewResponseController(w).Flush()
			}
		}
	}
}

func status(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

// set changes what there is, and sends the events to those who watch; nil ends their watches.
func (s *slicesServer) set(items []*discoveryv1.EndpointSlice, events ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.items = nil
	for _, item := range items {
		s.items = append(s.items, *item)
	}
	for _, w := range s.watchers {
		for _, e := range events {
			w <- e
		}
	}
	if slices.ContainsFunc(events, func(e []byte) bool { return e == nil }) {
		s.watchers = nil
	}
}

func (s *slicesServer) watching() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers)
}

func event(kind string, object any) []byte {
	text, _ := json.Marshal(map[string]any{"type": kind, "object": object})
	return append(text, '\n')
}

func newServices(t *testing.T, server string) (*Services, *prometheus.Registry, *lockedBuffer) {
	t.Helper()
	log, registry := &lockedBuffer{}, prometheus.NewRegistry()
	s, err := NewServices(ServicesOptions{Logger: slog.New(slog.NewTextHandler(log, nil)), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	through(t, s, server)
	return s, registry, log
}

// kubeconfigOf is one for the cluster at an address.
func kubeconfigOf(t *testing.T, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts: [{name: test, context: {cluster: test, user: test}}]\n"+
		"clusters: [{name: test, cluster: {server: %q}}]\nusers: [{name: test, user: {token: secret}}]\n", server)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// through has the cluster at an address followed.
func through(t *testing.T, s *Services, server string) {
	t.Helper()
	config := DefaultConfig()
	config.Kubeconfig = kubeconfigOf(t, server)
	update, err := s.Prepare(&config)
	if err != nil {
		t.Fatal(err)
	}
	update.Commit()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// expects takes lists until the one that is expected comes.
func expects(t *testing.T, changes <-chan []string, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		select {
		case got, open := <-changes:
			if !open {
				t.Fatalf("the list ended, want %v", want)
			}
			if slices.Equal(got, want) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("never %v", want)
		}
	}
}

// TestServicesFollow follows a Service across a watch that ends, one whose version has expired, credentials that are refused for
// a while, another cluster and an end that leaves nothing behind.
func TestServicesFollow(t *testing.T) {
	server := newSlicesServer(t)
	one, two := sliceOf("a", discoveryv1.AddressTypeIPv4, "http=8000", "10.0.0.1"), sliceOf("b", discoveryv1.AddressTypeIPv4, "http=8000", "10.0.0.2")
	server.set([]*discoveryv1.EndpointSlice{one})
	s, registry, log := newServices(t, server.URL)
	ctx, cancel := context.WithCancel(t.Context())
	current, changes, err := s.Endpoints(ctx, "ml/llama:http")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.0.0.1:8000"}, current); diff != "" {
		t.Fatal(diff)
	}
	watches := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d watches", n), func() bool { return server.watching() == n })
	}
	watches(1)
	server.set([]*discoveryv1.EndpointSlice{one, two}, event("ADDED", two))
	expects(t, changes, "10.0.0.1:8000", "10.0.0.2:8000")

	// One more follower shares the watch, and has the list at once.
	other, cancelOther := context.WithCancel(t.Context())
	if current, _, err := s.Endpoints(other, "ml/llama"); err != nil || len(current) != 2 {
		t.Errorf("another follower: %v, %v", current, err)
	}
	cancelOther()
	if server.watching() != 1 {
		t.Errorf("%d watches, want one for both", server.watching())
	}

	two.ResourceVersion = "1"
	server.set([]*discoveryv1.EndpointSlice{two}, event("DELETED", one))
	expects(t, changes, "10.0.0.2:8000")
	server.set([]*discoveryv1.EndpointSlice{one, two}, nil) // the watch ends, with the change that it does not tell
	watches(1)
	server.set([]*discoveryv1.EndpointSlice{one}, event("ERROR", metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired,
	}), nil)
	expects(t, changes, "10.0.0.1:8000")
	watches(1)
	if text := log.String(); text != "" {
		t.Errorf("what is ordinary is in the log:\n%s", text)
	}

	server.mu.Lock()
	server.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		status(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")
		return true
	}
	server.mu.Unlock()
	server.set([]*discoveryv1.EndpointSlice{two}, nil)
	const unauthorized = "service ml/llama: its endpoints are as they were known last: unauthorized: the apiserver does not take the credentials of actuators.kubernetes: is the token or the certificate still valid?"
	eventually(t, "a warning", func() bool { return slices.Equal(s.Warnings(), []string{unauthorized}) })
	up := func(want float64) {
		t.Helper()
		expected := fmt.Sprintf("# HELP flyball_batchproxy_service_watch_up 1 while the EndpointSlices of the Service are followed, 0 while they are as they were known last.\n"+
			"# TYPE flyball_batchproxy_service_watch_up gauge\nflyball_batchproxy_service_watch_up{upstream=\"ml/llama\"} %v\n", want)
		if err := testutil.GatherAndCompare(registry, strings.NewReader(expected), "flyball_batchproxy_service_watch_up"); err != nil {
			t.Error(err)
		}
	}
	up(0)
	late, cancelLate := context.WithCancel(t.Context())
	if current, _, err := s.Endpoints(late, "ml/llama:http"); err != nil || !slices.Equal(current, []string{"10.0.0.1:8000"}) {
		t.Errorf("the list while nothing is answered: %v, %v; want what was known last", current, err)
	}
	cancelLate()
	server.mu.Lock()
	server.refuse = func(http.ResponseWriter, *http.Request) bool { return false }
	server.mu.Unlock()
	expects(t, changes, "10.0.0.2:8000")
	eventually(t, "no warning", func() bool { return s.Warnings() == nil })
	up(1)
	if n := strings.Count(log.String(), "unauthorized"); n != 1 {
		t.Errorf("the log says %d times that it is not authorized, want once:\n%s", n, log)
	}

	elsewhere := newSlicesServer(t)
	elsewhere.set([]*discoveryv1.EndpointSlice{one, two})
	through(t, s, elsewhere.URL)
	expects(t, changes, "10.0.0.1:8000", "10.0.0.2:8000")
	eventually(t, "the other cluster is watched", func() bool { return elsewhere.watching() == 1 })
	if diff := cmp.Diff("/apis/discovery.k8s.io/v1/namespaces/ml/endpointslices?kubernetes.io/service-name=llama", elsewhere.asked[0]); diff != "" {
		t.Error(diff)
	}

	select {
	case got := <-changes:
		t.Errorf("the list again, although it is the same: %v", got)
	default:
	}
	cancel()
	for range changes {
		continue
	}
	eventually(t, "nothing is watched", func() bool {
		elsewhere.mu.Lock()
		defer elsewhere.mu.Unlock()
		return elsewhere.open == 0
	})
	eventually(t, "its series are gone", func() bool {
		n, err := testutil.GatherAndCount(registry)
		return err == nil && n == 0
	})
	if s.Warnings() != nil {
		t.Errorf("warnings of what nobody follows: %q", s.Warnings())
	}
}

// TestServicesNames are those that nothing can be found by.
func TestServicesNames(t *testing.T) {
	s, _, _ := newServices(t, "http://127.0.0.1:1")
	for _, name := range []string{"llama", "", "/llama", "ml/"} {
		if _, _, err := s.Endpoints(t.Context(), name); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	none, err := NewServices(ServicesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := none.Endpoints(t.Context(), "ml/llama"); err == nil {
		t.Error("a Service of no cluster was taken")
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := none.Prepare(nil); err == nil || err.Error() != "kubeconfig: this process does not run in a pod: give the path of a kubeconfig" {
		t.Errorf("no pod: %v", err)
	}
}

// TestServicesListed: that a Role lacks watch is said once, and is so all the time, although each LIST is answered.
func TestServicesListed(t *testing.T) {
	server := newSlicesServer(t)
	refused := 0
	server.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("watch") == "" {
			return false
		}
		server.mu.Lock()
		refused++
		server.mu.Unlock()
		status(w, http.StatusForbidden, metav1.StatusReasonForbidden, "cannot watch")
		return true
	}
	server.set([]*discoveryv1.EndpointSlice{sliceOf("a", discoveryv1.AddressTypeIPv4, "http=8000", "10.0.0.1")})
	s, _, log := newServices(t, server.URL)
	if current, _, err := s.Endpoints(t.Context(), "ml/llama"); err != nil || !slices.Equal(current, []string{"10.0.0.1:8000"}) {
		t.Fatalf("the list is %v, %v", current, err)
	}
	eventually(t, "five refusals", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return refused >= 5
	})
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "verbs: [list, watch]") {
		t.Errorf("the log has %d lines, want one with the rule that is missing:\n%s", n, log)
	}
	if len(s.Warnings()) != 1 {
		t.Errorf("warnings %q, want one", s.Warnings())
	}
}
