//go:build nokubernetes

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"gopkg.in/yaml.v3"

	"flyball/actuators"
	"flyball/batchproxy"
	"flyball/rules/source"
)

// What a binary without Kubernetes has of it: enough to say so.
type (
	kubernetesConfig   = yaml.Node
	kubernetesActuator struct{ actuators.Actuator }
	kubernetesUpdate   struct{}
	noServices         = batchproxy.Endpoints
	kubernetesServices struct{ noServices }
	servicesUpdate     struct{}
	leaseConfig        = yaml.Node
)

const kubernetesKind = "kubernetes"

func withKubernetes() []string { return nil }

func missingKind(kind string) string {
	if kind == kubernetesKind {
		return ": it was built without Kubernetes (-tags nokubernetes)"
	}
	return ""
}

func logKubernetes(*slog.Logger) {}

func (*app) buildKubernetes() error { return nil }

func (*app) buildServices() error { return nil }

func (*kubernetesServices) Prepare(*kubernetesConfig) (*servicesUpdate, error) {
	return &servicesUpdate{}, nil
}

func (*kubernetesServices) Warnings() []string { return nil }

func (*servicesUpdate) Commit() {}

func (l *loaded) validateKubernetes(d *source.Decoder, _ string) {
	for i, m := range l.Batchproxy.Models {
		for j, u := range m.Upstreams {
			if u.Service != "" {
				at := fmt.Sprintf("batchproxy.models[%d].upstreams[%d].service", i, j)
				d.FaultAt(at, 0, "%s: this flyball was built without Kubernetes (-tags nokubernetes)", at)
			}
		}
	}
	if l.Actuators.Kubernetes != nil {
		d.FaultAt("actuators.kubernetes", 0, "actuators.kubernetes: this flyball was built without Kubernetes (-tags nokubernetes)")
	}
}

func (*loaded) checkKubernetes(string, int) error {
	return errors.New("target.kind: there is no Kubernetes here")
}

func (*kubernetesActuator) Prepare(*kubernetesConfig) (*kubernetesUpdate, error) {
	return &kubernetesUpdate{}, nil
}

func (*kubernetesUpdate) Commit() {}

func (*loaded) giveBack(context.Context, io.Writer, io.Writer, []string, bool) error {
	return errors.New("release: this flyball was built without Kubernetes (-tags nokubernetes)")
}

func (l *loaded) validateLease(d *source.Decoder) {
	if l.Election.Lease != nil {
		d.FaultAt("election.lease", 0, "election.lease: this flyball was built without Kubernetes (-tags nokubernetes)")
	}
}

func (*app) newLease(*leaseConfig) elector { return nil } // no configuration with one is valid
