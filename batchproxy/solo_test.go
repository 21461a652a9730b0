package batchproxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestSoloLanes(t *testing.T) {
	var s soloLanes
	now := time.Unix(1000, 0)
	a, b := poisonerID{1}, poisonerID{2}
	after := func(d time.Duration) { now = now.Add(d) }
	isAlone := func(what string, who poisonerID, want bool) {
		t.Helper()
		if got := !s.alone(now, who).IsZero(); got != want {
			t.Errorf("%s: alone is %t", what, got)
		}
	}
	poison := func(who poisonerID, n int) {
		for range n {
			s.poisoned(now, who)
		}
	}
	poison(a, 2)
	isAlone("two", a, false)
	after(61 * time.Second)
	poison(a, 1)
	isAlone("a third after more than a minute", a, false)
	after(30 * time.Second)
	poison(a, 2)
	isAlone("three in a minute", a, true)
	isAlone("of another", b, false)
	if n, next := s.count(now); n != 1 || !next.Equal(now.Add(time.Minute)) {
		t.Errorf("%d alone until %s", n, next)
	}
	after(time.Minute)
	isAlone("a minute later", a, false)
	after(time.Minute)
	s.sweep(now)
	if s.some.Load() || len(s.tenants) != 0 {
		t.Errorf("%d are remembered", len(s.tenants))
	}
	for i := range 2 * maxPoisoners {
		s.poisoned(now, poisonerID{byte(i), byte(i >> 8), 1})
	}
	if len(s.tenants) != maxPoisoners {
		t.Errorf("%d tenants are remembered, want %d", len(s.tenants), maxPoisoners)
	}
}

// from is who sends a request.
type from struct{ address, tenant, authorization string }

func (f from) request() *http.Request {
	r := httptest.NewRequest("POST", "/v1/models/m:predict", nil)
	r.RemoteAddr = f.address
	if f.tenant != "" {
		r.Header.Set("X-Flyball-Tenant", f.tenant)
	}
	if f.authorization != "" {
		r.Header.Set("Authorization", f.authorization)
	}
	r.Header.Set("X-Forwarded-For", "10.0.0.1") // anybody may say so
	return r
}

// TestNobodyIsSetApartForAnother: whoever sends requests that are refused in the name of somebody else sets himself apart, if anybody.
func TestNobodyIsSetApartForAnother(t *testing.T) {
	gateway := []string{"10.0.0.0/8"}
	for _, tt := range []struct {
		name             string
		trust            Trust
		header           string // of tenants
		attacker, victim from
		attackerAlone    bool
		victimAlone      bool // where the two cannot be told apart, or are one
	}{
		{"a name from another address", Trust{Everyone: true}, "", from{"192.0.2.1:1", "a", ""}, from{"192.0.2.2:1", "a", ""}, true, false},
		{"one's own name, another connection", Trust{Everyone: true}, "", from{"192.0.2.1:1", "a", ""}, from{"192.0.2.1:2", "a", ""}, true, true},
		{"another name from one address", Trust{Everyone: true}, "", from{"192.0.2.1:1", "a", ""}, from{"192.0.2.1:1", "b", ""}, true, false},
		{"a name that is not believed", Trust{}, "", from{"192.0.2.1:1", "a", ""}, from{"192.0.2.2:1", "a", ""}, false, false},
		{"a name that is not believed, with credentials", Trust{}, "", from{"192.0.2.1:1", "a", "x"}, from{"192.0.2.1:1", "a", "y"}, true, false},
		{"a key that everybody has", Trust{}, "", from{"192.0.2.1:1", "", "Bearer EMPTY"}, from{"192.0.2.2:1", "", "Bearer EMPTY"}, true, false},
		{"past the gateway", Trust{From: gateway}, "", from{"192.0.2.1:1", "a", ""}, from{"10.0.0.1:1", "a", ""}, true, false},
		{"past the gateway, by the address", Trust{From: gateway}, "", from{"192.0.2.1:1", "a", ""}, from{"192.0.2.1:2", "b", ""}, true, true},
		{"through the gateway", Trust{From: gateway}, "", from{"10.0.0.1:1", "b", ""}, from{"10.0.0.1:1", "a", ""}, true, false},
		{"through one of the gateways", Trust{From: gateway}, "", from{"10.0.0.1:1", "a", ""}, from{"10.0.0.2:1", "a", ""}, true, true},
		{"through the gateway, without a name", Trust{From: gateway}, "", from{"10.0.0.1:1", "", ""}, from{"10.0.0.1:1", "a", ""}, false, false},
		{"nobody says anything", Trust{Everyone: true}, "", from{"192.0.2.1:1", "", ""}, from{"192.0.2.1:1", "", ""}, false, false},
		{"a header that is not that of tenants", Trust{From: gateway}, "x-team", from{"10.0.0.1:1", "a", ""}, from{"10.0.0.1:1", "a", ""}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := oneModel(Upstream{URL: "http://replica"})
			cfg.Models[0].Queue.TrustHeaders, cfg.Models[0].Queue.TenantHeader = tt.trust, tt.header
			p, err := New(cfg, Options{})
			if err != nil {
				t.Fatal(err)
			}
			m := p.models["m"]
			defer m.timer.Stop()
			alone := func(f from) bool {
				r := &request{incoming: f.request(), key: []byte("lane")}
				m.rideAlone(r)
				return string(r.key) != "lane"
			}
			for range poisonings {
				if alone(tt.attacker) {
					t.Fatal("apart already")
				}
				m.poisonedBy(&request{incoming: tt.attacker.request()})
			}
			if got := alone(tt.attacker); got != tt.attackerAlone {
				t.Errorf("the attacker rides alone: %t", got)
			}
			if got := alone(tt.victim); got != tt.victimAlone {
				t.Errorf("the victim rides alone: %t", got)
			}
		})
	}
}

// TestPoisonerRidesAlone: a tenant whose requests spoil three batches no longer shares any, while another tenant's still do.
func TestPoisonerRidesAlone(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxSize = 2 // a batch leaves when both are there
	cfg.Models[0].Batch.MaxWait *= 1000
	f := start(t, cfg, Options{})
	both := func(tenant string, bad, good int) {
		t.Helper()
		var clients sync.WaitGroup
		clients.Go(func() {
			want(t, f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":["poison%d"]}`, bad), "X-Flyball-Tenant", tenant), 400, `{"error":"poison"}`)
		})
		clients.Go(func() {
			want(t, f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, good), "X-Flyball-Tenant", "good"), 200, fmt.Sprintf(`{"predictions":[%d]}`, good))
		})
		clients.Wait()
	}
	for i := range 3 {
		both("bad", i, i)
	}
	before := len(s.seen())
	if before != 9 { // three batches, and the two halves of each
		t.Errorf("%d calls for three batches, want 9", before)
	}
	if n := testutil.ToFloat64(f.metrics.poisoned.WithLabelValues("m")); n != 3 {
		t.Errorf("poisoned_requests_total is %g, want 3", n)
	}
	if n := testutil.ToFloat64(f.metrics.solo.WithLabelValues("m")); n != 1 {
		t.Errorf("solo_lanes is %g, want 1", n)
	}
	var clients sync.WaitGroup
	for range 2 { // which would fill a batch
		clients.Go(func() {
			want(t, f.post("/v1/models/m:predict", `{"instances":["poison"]}`, "X-Flyball-Tenant", "bad"), 400, `{"error":"poison"}`)
		})
	}
	clients.Wait()
	f.postAll("/v1/models/m:predict", `{"instances":[1]}`, `{"instances":[2]}`) // without a tenant: never apart
	if got := s.rows()[before:]; len(got) != 3 || got[0] != 1 || got[1] != 1 || got[2] != 2 {
		t.Errorf("then the replica had batches of %v rows, want 1, 1 and 2", got)
	}
	if n := testutil.ToFloat64(f.metrics.poisoned.WithLabelValues("m")); n != 3 {
		t.Errorf("poisoned_requests_total is %g after requests that went alone, want 3", n)
	}
}
