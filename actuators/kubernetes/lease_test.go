package kubernetes

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"flyball/actuators/kubernetes/kubetest"
)

// TestLeaseLeads: who has the Lease leads for as long after its last renewal as the deadline says, by the clock that passes
// evenly and by the wall's, and in the cluster that it was renewed in.
func TestLeaseLeads(t *testing.T) {
	began := time.Now()
	for _, tt := range []struct {
		name string
		now  time.Time
		do   func(*Lease)
		want bool
	}{
		{name: "just renewed", now: began, want: true},
		{name: "before the deadline", now: began.Add(9 * time.Second), want: true},
		{name: "at the deadline", now: began.Add(10 * time.Second)},
		{name: "the machine slept", now: time.Now().Round(0).Add(time.Hour)},
		{name: "given up", now: began, do: func(l *Lease) { l.lose("test") }},
		{name: "another has it", now: began, do: func(l *Lease) { l.found("flyball-1", began) }},
		{name: "another of the same name has it", now: began, do: func(l *Lease) { l.found("flyball-0", began.Add(time.Second)) }},
		{name: "its own renewal is found", now: began, do: func(l *Lease) { l.found("flyball-0", began) }, want: true},
		{name: "another cluster", now: began, do: func(l *Lease) { l.k.client.Store(&client{}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := New(Options{})
			k.client.Store(&client{})
			config := LeaseConfig{}
			config.SetDefaults()
			config.Namespace, config.Name, config.Identity = "ml", "flyball", "flyball-0"
			if err := config.Validate(); err != nil {
				t.Fatal(err)
			}
			l := k.NewLease(config)
			l.now = func() time.Time { return tt.now }
			if l.Leads() {
				t.Error("it leads before it has the Lease")
			}
			l.won(began, began, k.client.Load())
			if tt.do != nil {
				tt.do(l)
			}
			if got := l.Leads(); got != tt.want {
				t.Errorf("leads %v, want %v", got, tt.want)
			}
		})
	}
}

// testLeads: who has the Lease of a real apiserver does not lead while its clock says that the renewal is long ago, though the
// apiserver has it for the holder still, and leads again by the renewal after.
func testLeads(t *testing.T, c *kubetest.Cluster) {
	k := newKubernetes(t, c.Kubeconfig())
	config := LeaseConfig{}
	config.SetDefaults()
	config.Namespace, config.Name, config.Identity = "ml", "leads", "flyball-0"
	l := k.NewLease(config)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	holder := func() string {
		live, err := c.Admin.Resource(schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}).Namespace("ml").
			Get(t.Context(), "leads", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := unstructured.NestedString(live.Object, "spec", "holderIdentity")
		return name
	}
	clock := func(now func() time.Time) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.now = now
	}
	eventually(t, "it leads", l.Leads)
	for name, now := range map[string]func() time.Time{
		"the machine slept":       func() time.Time { return time.Now().Round(0).Add(time.Hour) },
		"the process was stopped": func() time.Time { return time.Now().Add(time.Duration(config.RenewDeadline)) },
	} {
		clock(now)
		if l.Leads() || holder() != "flyball-0" {
			t.Errorf("%s: it leads: %v, and the Lease is held by %q", name, l.Leads(), holder())
		}
	}
	clock(time.Now)
	eventually(t, "it leads again", l.Leads)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if l.Leads() || holder() != "" {
		t.Errorf("after its end it leads: %v, and the Lease is held by %q", l.Leads(), holder())
	}
}

// testGivesUpItsOwn: one that was stopped, and whose Lease another has since, does not give the other's up.
func testGivesUpItsOwn(t *testing.T, c *kubetest.Cluster) {
	leases := c.Admin.Resource(schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}).Namespace("ml")
	k := newKubernetes(t, c.Kubeconfig())
	config := LeaseConfig{}
	config.SetDefaults()
	config.Namespace, config.Name, config.Identity = "ml", "stopped", "flyball-0"
	lock := &leaseLock{LeaseLock: resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: "ml", Name: "stopped"},
		LockConfig: resourcelock.ResourceLockConfig{Identity: "flyball-0"},
	}, l: k.NewLease(config)}
	record := resourcelock.LeaderElectionRecord{HolderIdentity: "flyball-0", LeaseDurationSeconds: 15, RenewTime: metav1.Now(), AcquireTime: metav1.Now()}
	if err := lock.Create(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	holder := func() string {
		live, err := leases.Get(t.Context(), "stopped", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := unstructured.NestedString(live.Object, "spec", "holderIdentity")
		return name
	}
	giveUp := func() error { // as client-go does it
		t.Helper()
		if _, _, err := lock.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
		return lock.Update(t.Context(), resourcelock.LeaderElectionRecord{LeaseDurationSeconds: 1, RenewTime: metav1.Now(), AcquireTime: metav1.Now()})
	}
	if _, err := leases.Patch(t.Context(), "stopped", types.MergePatchType, []byte(`{"spec":{"holderIdentity":"flyball-1"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := giveUp(); err == nil || holder() != "flyball-1" {
		t.Errorf("error %v, and the Lease is held by %q: it is that of flyball-1", err, holder())
	}
	if _, err := leases.Patch(t.Context(), "stopped", types.MergePatchType, []byte(`{"spec":{"holderIdentity":""}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := lock.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := lock.Update(t.Context(), record); err != nil || holder() != "flyball-0" {
		t.Fatalf("it takes the Lease again: %v, held by %q", err, holder())
	}
	if err := giveUp(); err != nil || holder() != "" {
		t.Errorf("error %v, and the Lease is held by %q: it was its own to give up", err, holder())
	}
}
