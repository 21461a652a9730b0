// Package mixin is what a Prometheus and a Grafana need to watch flyball: recording rules that give each model one set of
// figures whoever measured it, alerts with a runbook each, and dashboards. It is written in Jsonnet without dependencies
// (mixin.libsonnet is the root; config.libsonnet holds what users change) and rendered by go-jsonnet, so that nothing has
// to be installed.
//
// The rendered files are in out: rules.yaml and alerts.yaml for rule_files of Prometheus or flyball, dashboards for
// Grafana's provisioning, kubernetes/prometheusrule.yaml for the Prometheus operator. To have them with other settings:
//
//	files, err := mixin.Render(mixin.Options{Config: map[string]any{"grafanaURL": "https://grafana.example.com"}})
//	for name, text := range files { ... } // "alerts.yaml", "dashboards/flyball-overview.json", ...
//
// which is `flyball mixin render --set grafanaURL=https://grafana.example.com -o DIR`. Users of Jsonnet import
// mixin.libsonnet and override _config, as with any other mixin:
//
//	(import 'flyball/mixin/mixin.libsonnet') + { _config+:: { clusterLabel: 'k8s_cluster' } }
//
// After a change of a .libsonnet file, `make mixin` formats the sources and renders out again; a test fails where that
// was forgotten. Each alert has a file in runbooks, served by RunbookHandler, and a firing and a quiet case in tests.
package mixin
