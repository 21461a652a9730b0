package kubernetes

import (
	"testing"
	"time"
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
