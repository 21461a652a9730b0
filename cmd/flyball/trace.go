package main

import (
	"reflect"

	"github.com/prometheus/common/version"

	"flyball/cmd/flyball/tracing"
	"flyball/rules/source"
)

// validateTracing checks the section; one without anything in it is none, as in Prometheus.
func (l *loaded) validateTracing(d *source.Decoder, dir string) {
	switch {
	case l.Tracing == nil:
	case reflect.DeepEqual(*l.Tracing, tracing.Config{}):
		l.Tracing = nil
	default:
		l.Tracing.SetDirectory(dir)
		d.Faults("tracing", l.Tracing.Validate())
	}
}

// buildTracing makes the tracing of the proxy's requests, without any yet.
func (a *app) buildTracing() {
	a.tracing = tracing.New(tracing.Options{
		Logger: a.opts.log.With("component", "tracing"), Registerer: a.metrics, Version: version.Version, Scope: "flyball/batchproxy",
	})
	a.onClose(func() error {
		a.tracing.Close()
		return nil
	})
}
