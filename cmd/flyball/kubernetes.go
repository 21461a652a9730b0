//go:build !nokubernetes

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strings"

	"github.com/prometheus/common/version"
	"k8s.io/klog/v2"

	"flyball/actuators"
	"flyball/actuators/kubernetes"
	"flyball/rules/source"
)

// What this binary has of Kubernetes. The build tag nokubernetes leaves it out, and client-go with it.
type (
	kubernetesConfig   = kubernetes.Config
	kubernetesActuator = kubernetes.Kubernetes
	kubernetesUpdate   = kubernetes.Update
	kubernetesServices = kubernetes.Services
	servicesUpdate     = kubernetes.ServicesUpdate
	leaseConfig        = kubernetes.LeaseConfig
)

const kubernetesKind = kubernetes.Kind

// withKubernetes are the kinds of targets that come with it.
func withKubernetes() []string { return []string{kubernetesKind} }

// missingKind says why a kind that flyball can have is not in this binary.
func missingKind(string) string { return "" }

// logKubernetes has what client-go says by itself, such as a watch that is forbidden, in the log instead of on stderr. It is
// for the beginning of the process, before anything of Kubernetes runs.
func logKubernetes(log *slog.Logger) { klog.SetSlogLogger(log.With("component", "client-go")) }

func (a *app) buildKubernetes() error {
	if !a.opts.has(roleRules) {
		return nil
	}
	instance, _ := os.Hostname() // the name of the pod, where there is one
	a.kubernetes = kubernetes.New(kubernetes.Options{
		Logger: a.opts.log.With("component", "kubernetes"), UserAgent: "flyball/" + version.Version, Instance: instance,
	})
	a.onClose(func() error {
		a.kubernetes.Close()
		return nil
	})
	return nil
}

// buildServices makes what finds the endpoints of Services for the proxy, without a cluster yet.
func (a *app) buildServices() (err error) {
	if a.proxyListener == nil {
		return nil
	}
	a.services, err = kubernetes.NewServices(kubernetes.ServicesOptions{
		Logger: a.opts.log.With("component", "kubernetes"), Registerer: a.metrics, UserAgent: "flyball/" + version.Version,
	})
	if err != nil {
		return err
	}
	a.onClose(func() error {
		a.services.Close()
		return nil
	})
	return nil
}

func (l *loaded) validateKubernetes(d *source.Decoder, dir string) {
	c := l.Actuators.Kubernetes
	if c == nil {
		return
	}
	if reflect.ValueOf(*c).IsZero() { // a key without a value
		c.SetDefaults()
	}
	c.SetDirectory(dir)
	d.Faults("actuators.kubernetes", c.Validate())
}

// checkKubernetes says why a rule cannot scale a target of the cluster to so many replicas.
func (l *loaded) checkKubernetes(name string, most int) error {
	c := l.Actuators.Kubernetes
	if c == nil {
		return fmt.Errorf("target.kind: actuators.kubernetes is not in the configuration: \"kubernetes: {}\" is the cluster that flyball runs in")
	}
	if err := c.CheckTarget(name); err != nil {
		return fmt.Errorf("target.name: %w", err)
	}
	if most > c.MaxReplicas {
		return fmt.Errorf("max: %d, above actuators.kubernetes.max_replicas, which is %d", most, c.MaxReplicas)
	}
	return nil
}

// giveBack gives back what was taken of the autoscalers of targets, by their names, and says so.
func (l *loaded) giveBack(ctx context.Context, stdout, stderr io.Writer, targets []string, dryRun bool) error {
	config := l.Actuators.Kubernetes
	if config == nil {
		return errors.New("actuators.kubernetes is not in the configuration")
	}
	for i, target := range targets {
		name, whole := strings.CutPrefix(target, kubernetesKind+"/") // as metrics and the page have it
		if config.CheckTarget(target) != nil && whole {
			targets[i] = name
		}
		if err := config.CheckTarget(targets[i]); err != nil {
			return exitError{exitUsage, fmt.Errorf("release: %w", err)}
		}
	}
	k := kubernetes.New(kubernetes.Options{UserAgent: "flyball/" + version.Version})
	update, err := k.Prepare(config)
	if err != nil {
		return err
	}
	update.Commit()
	defer k.Close()
	var errs []error
	for _, name := range targets {
		done, err := k.Release(ctx, actuators.Target{Kind: kubernetesKind, Name: name}, dryRun)
		errs = append(errs, err)
		switch would := map[bool]string{true: "would be given back: ", false: "given back: "}[dryRun]; {
		case len(done) > 0:
			fmt.Fprintf(stdout, "%s: %s%s\n", name, would, strings.Join(done, "; "))
		case err == nil:
			fmt.Fprintf(stdout, "%s: nothing to give back\n", name)
		}
		if how := config.ConflictOf(name); how != kubernetes.ConflictRefuse && len(done) > 0 {
			fmt.Fprintf(stderr, "flyball: %s: a flyball that acts on it takes it again: its conflict is %s\n", name, how)
		}
	}
	return errors.Join(errs...)
}

func (l *loaded) validateLease(d *source.Decoder) {
	c := l.Election.Lease
	if c == nil {
		return
	}
	if reflect.ValueOf(*c).IsZero() { // a key without a value
		c.SetDefaults()
	}
	d.Faults("election.lease", c.Validate())
	if l.Actuators.Kubernetes == nil {
		d.FaultAt("election.lease", 0, "election.lease: actuators.kubernetes, whose cluster has the Lease, is not in the configuration")
	}
}

func (a *app) newLease(c *leaseConfig) elector { return a.kubernetes.NewLease(*c) }
