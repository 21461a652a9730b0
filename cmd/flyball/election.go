package main

import (
	"context"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/actuators/election"
	"flyball/rules/source"
)

// Election is how several processes that could act agree on the one that does.
type Election struct {
	File  string       `yaml:"file"`  // a lock file, for processes of one machine
	Lease *leaseConfig `yaml:"lease"` // a Lease, in the cluster of actuators.kubernetes
}

// elector is what says which process acts.
type elector interface {
	// Run takes part until ctx ends.
	Run(ctx context.Context) error

	// Leads says whether this process is the one that acts.
	Leads() bool

	// Leader is the other one that does; empty while that is this one, or not known.
	Leader() string
}

// validateElection checks the section; the path of the lock file is relative to the folder of the configuration file.
func (l *loaded) validateElection(d *source.Decoder, dir string) {
	e := l.Election
	switch {
	case e == nil:
		return
	case e.File != "" && e.Lease != nil:
		d.FaultAt("election", 0, "election: it is by file or by lease: give one of them")
	case e.File == "" && e.Lease == nil && !d.Has("election.lease"):
		d.FaultAt("election", 0, "election: give file, the path of a lock file, or lease, a Lease of the cluster")
	case e.File != "":
		if err := election.Supported(); err != nil {
			d.FaultAt("election.file", 0, "election.file: %s", err)
		}
		if !filepath.IsAbs(e.File) {
			e.File = filepath.Join(dir, e.File)
		}
	}
	l.validateLease(d)
}

// buildElection makes the election of the configuration, which stays for the life of the process.
func (a *app) buildElection() error {
	if !a.opts.has(roleRules) {
		return nil
	}
	switch e := a.live.Load().Election; {
	case e == nil:
	case e.Lease != nil:
		a.elector = a.newLease(e.Lease)
	default:
		a.elector = election.New(e.File, election.Options{Logger: a.opts.log.With("component", "election")})
	}
	a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flyball_leader", Help: "1 while this process is the one that acts, of several that could.",
	}, func() float64 {
		if a.leads() {
			return 1
		}
		return 0
	}))
	return nil
}

// leads says whether this process is the one that acts.
func (a *app) leads() bool { return a.elector == nil || a.elector.Leads() }
