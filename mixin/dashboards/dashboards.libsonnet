{
  grafanaDashboards+:: {
    'flyball-overview.json': (import 'overview.libsonnet')($._config),
  },
}
