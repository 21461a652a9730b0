(import 'config.libsonnet') +
(import 'alerts/alerts.libsonnet') +
(import 'rules/rules.libsonnet') +
(import 'rules/gpu.libsonnet') +
(import 'dashboards/dashboards.libsonnet')
