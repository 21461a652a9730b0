package batchproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// tardy is a replica that takes 10 ms for whatever it is sent, and remembers the order.
type tardy struct {
	mu  sync.Mutex
	saw []string
}

func (s *tardy) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.saw = append(s.saw, string(body))
	s.mu.Unlock()
	select {
	case <-time.After(10 * time.Millisecond):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	text := strings.Replace(string(body), "instances", "predictions", 1)
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text))}, nil
}

// TestHeadersOrder: what clients say in headers decides who is first, who is answered 429, 503 or 504, and what metrics say.
func TestHeadersOrder(t *testing.T) {
	type sent struct {
		at         int    // ms
		header     string // name: value, several divided by a semicolon
		parameters string // of the Open Inference Protocol, which is spoken where there are some
	}
	first := sent{0, "", ""} // keeps the replica for 10 ms
	for _, tt := range []struct {
		name   string
		change func(m *ModelConfig)
		sent   []sent
		order  []int    // as the replica saw them
		codes  []int    // by request
		series []string // that are 1
	}{
		{
			name: "priority", sent: []sent{first, {1, "X-Flyball-Priority: low", ""}, {2, "", ""}, {3, "X-Flyball-Priority: critical", ""}, {4, "X-Flyball-Priority: nonsense", ""}},
			order: []int{0, 3, 2, 4, 1}, codes: []int{200, 200, 200, 200, 200},
			series: []string{
				`flyball_batchproxy_requests_total{class="critical",code="200",model="m",protocol="v1"}`,
				`flyball_batchproxy_queue_duration_seconds{class="low",model="m",protocol="v1"}`,
			},
		},
		{
			name: "priority that is not trusted", change: func(m *ModelConfig) { m.Queue.TrustHeaders = Trust{} },
			sent:  []sent{first, {1, "X-Flyball-Priority: low", ""}, {2, "X-Flyball-Priority: critical", ""}},
			order: []int{0, 1, 2}, codes: []int{200, 200, 200},
		},
		{
			name:  "deadlines",
			sent:  []sent{first, {1, "X-Flyball-Deadline-Ms: 5", ""}, {2, "X-Request-Timeout-Ms: 60", ""}, {3, "X-Envoy-Expected-Rq-Timeout-Ms: 40", ""}, {4, "X-Flyball-Deadline-Ms: 60000", ""}, {5, "X-Flyball-Deadline-Ms: soon", ""}},
			order: []int{0, 3, 2, 4}, codes: []int{200, 504, 200, 200, 200, 400},
			series: []string{`flyball_batchproxy_shed_total{model="m",reason="deadline"}`},
		},
		{
			name: "priority of the protocol",
			sent: []sent{
				first,
				{1, "", `{"priority":9}`},
				{2, "", `{"priority":0}`},
				{3, "", `{"priority":1}`},
				{4, "", `{"priority":2}`},
				{5, "", `{"priority":"high"}`},
				{6, "X-Flyball-Priority: low", `{"priority":1}`},
				{7, "X-Flyball-Priority: nonsense", `{"priority":2}`},
			},
			order: []int{0, 3, 4, 7, 2, 1, 6}, codes: []int{200, 200, 200, 200, 200, 400, 200, 200},
			series: []string{
				`flyball_batchproxy_requests_total{class="critical",code="200",model="m",protocol="oip"}`,
				`flyball_batchproxy_queue_duration_seconds{class="critical",model="m",protocol="oip"}`,
				`flyball_batchproxy_requests_total{class="normal",code="400",model="m",protocol="oip"}`,
			},
		},
		{
			name: "priority among classes of one's own", change: func(m *ModelConfig) {
				ms := func(n int) prom.Duration { return prom.Duration(time.Duration(n) * time.Millisecond) }
				m.Priorities = []Priority{{"batch", ms(900)}, {"normal", ms(300)}, {"live", ms(20)}}
			},
			sent:  []sent{first, {1, "", `{"priority":3}`}, {2, "", `{"priority":2}`}, {3, "", `{"priority":1}`}},
			order: []int{0, 3, 2, 1}, codes: []int{200, 200, 200, 200},
			series: []string{`flyball_batchproxy_requests_total{class="live",code="200",model="m",protocol="oip"}`},
		},
		{
			name: "priority of the protocol that is not trusted", change: func(m *ModelConfig) { m.Queue.TrustHeaders = Trust{} },
			sent:  []sent{first, {1, "", `{"priority":4}`}, {2, "", `{"priority":1}`}},
			order: []int{0, 1, 2}, codes: []int{200, 200, 200},
		},
		{
			name: "priority of connections that are trusted", change: func(m *ModelConfig) {
				m.Queue.TrustHeaders = Trust{From: []string{"2001:db8::/32", "10.1.2.3/8"}}
			},
			sent: []sent{
				first,
				{1, "X-Flyball-Priority: critical; Address: 192.0.2.7:1", ""},
				{2, "X-Flyball-Priority: critical; Address: 192.0.2.7:1; X-Forwarded-For: 10.0.0.1; Forwarded: for=10.0.0.1; X-Real-Ip: 10.0.0.1", ""},
				{3, "X-Flyball-Priority: critical; Address: [2001:db9::1]:1", ""},
				{4, "X-Flyball-Priority: critical; Address: @", ""},
				{5, "X-Flyball-Priority: high; Address: 10.200.0.1:1", ""},
				{6, "X-Flyball-Priority: critical; Address: [::ffff:10.0.0.9]:1", ""},
				{7, "X-Flyball-Priority: critical; Address: [2001:db8::1]:1", ""},
				{8, "Address: 10.200.0.1:1", `{"priority":1}`},
				{9, "Address: 192.0.2.7:1", `{"priority":1}`},
			},
			order: []int{0, 6, 7, 8, 5, 1, 2, 3, 4, 9}, codes: []int{200, 200, 200, 200, 200, 200, 200, 200, 200, 200},
		},
		{
			name: "timeouts of the protocol, in microseconds", change: func(m *ModelConfig) { m.Queue.TrustHeaders = Trust{} },
			sent: []sent{
				first,
				{1, "", `{"timeout":5000}`},
				{2, "", `{"timeout":60000}`},
				{3, "", `{"timeout":40000}`},
				{4, "", `{"timeout":0}`},
				{5, "", `{"timeout":-1}`},
				{6, "X-Flyball-Deadline-Ms: 3", `{"timeout":60000}`},
				{7, "", `{"timeout":9000000000000000000}`},
			},
			order: []int{0, 3, 2, 4, 7}, codes: []int{200, 504, 200, 200, 200, 400, 504, 200},
		},
		{
			name: "tenants", change: func(m *ModelConfig) {
				m.Queue.TenantHeader = "x-flyball-tenant"
				m.Queue.TenantLimit = 3. / 4096
			},
			sent: []sent{
				first,
				{1, "X-Flyball-Tenant: a", ""},
				{1, "X-Flyball-Tenant: a", ""},
				{1, "X-Flyball-Tenant: a", ""},
				{2, "X-Flyball-Tenant: a", ""},
				{3, "X-Flyball-Tenant: b", ""},
				{4, "X-Flyball-Tenant: c", ""},
			},
			order: []int{0, 1, 5, 6, 2, 3}, codes: []int{200, 200, 200, 200, 429, 200, 200},
			series: []string{`flyball_batchproxy_shed_total{model="m",reason="tenant_limit"}`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := oneModel(Upstream{URL: "http://replica"})
				m := &cfg.Models[0]
				m.Batch.Mode, m.Batch.MaxSize, m.Batch.MaxWait, m.Timeout = ModeGreedy, 1, 0, prom.Duration(30*time.Second)
				if tt.change != nil {
					tt.change(m)
				}
				replica, registry := &tardy{}, prometheus.NewRegistry()
				p, err := New(cfg, Options{Transport: replica, Registerer: registry})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var running, clients sync.WaitGroup
				running.Go(func() {
					if err := p.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				codes := make([]int, len(tt.sent))
				began := time.Now()
				for i, s := range tt.sent {
					time.Sleep(time.Until(began.Add(time.Duration(s.at) * time.Millisecond))) // of the bubble's time
					clients.Go(func() {
						path, body := "/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, i)
						if s.parameters != "" {
							path, body = "/v2/models/m/infer", fmt.Sprintf(`{"parameters":%s,"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[%d]}]}`, s.parameters, i)
						}
						r := httptest.NewRequest("POST", path, strings.NewReader(body))
						for line := range strings.SplitSeq(s.header, "; ") {
							switch name, value, ok := strings.Cut(line, ": "); {
							case name == "Address": // of the connection
								r.RemoteAddr = value
							case ok:
								r.Header.Set(name, value)
							}
						}
						w := httptest.NewRecorder()
						p.ServeHTTP(w, r)
						codes[i] = w.Code
						if (w.Code == 429 || w.Code == 503) && w.Header().Get("Retry-After") == "" {
							t.Errorf("request %d is answered %d without Retry-After", i, w.Code)
						}
					})
					synctest.Wait()
				}
				clients.Wait()
				var saw []int
				for _, body := range replica.saw {
					var id int
					if _, err := fmt.Sscanf(body[strings.LastIndexByte(body, '['):], `[%d]`, &id); err != nil {
						t.Fatal(body, err)
					}
					saw = append(saw, id)
				}
				if diff := cmp.Diff(tt.order, saw); diff != "" {
					t.Error("the order at the replica:", diff)
				}
				if diff := cmp.Diff(tt.codes, codes); diff != "" {
					t.Error(diff)
				}
				for _, name := range tt.series {
					if n, _ := value(t, registry, name); n != 1 {
						t.Errorf("%s is %v, want 1", name, n)
					}
				}
				cancel()
				running.Wait()
			})
		})
	}
}

// TestDeadlineKeepsNobodyApart: clients with different timeouts share a batch.
func TestDeadlineKeepsNobodyApart(t *testing.T) {
	key := func(name, value string) []byte {
		return appendHeaders(nil, http.Header{name: {value}}, nil)
	}
	for _, name := range append([]string{priorityHeader, deadlineHeader, firstTokenHeader}, timeoutHeaders[:]...) {
		if !slices.Equal(key(name, "1"), key(name, "2")) {
			t.Errorf("%s keeps requests apart", name)
		}
	}
}
