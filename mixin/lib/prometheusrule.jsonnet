// For the Prometheus operator: rules and alerts in one object.
local mixin = import '../mixin.libsonnet';
std.manifestYamlDoc({
  apiVersion: 'monitoring.coreos.com/v1',
  kind: 'PrometheusRule',
  metadata: { name: 'flyball', labels: mixin._config.prometheusRuleLabels },
  spec: { groups: mixin.prometheusRules.groups + mixin.prometheusAlerts.groups },
}, indent_array_in_object=false, quote_keys=false)
