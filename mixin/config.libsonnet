{
  _config+:: {
    // Which series are flyball's own. The job is the one that flyball gives itself when it scrapes itself.
    flyballSelector: 'job="flyball"',

    // Which flyball_scale_*, flyball_budget_* and flyball_forecast_* series are read. Rules write them to flyball's own store, where they have no job; in a
    // Prometheus that scrapes flyball they have one, and 'job="flyball"' may stand here.
    scaleSelector: '',

    // Which DCGM_FI_* series are read: those of a dcgm-exporter that is there already, such as 'job="dcgm-exporter"'; all, if
    // empty. A GPU that flyball measures too is taken from flyball.
    dcgmSelector: '',

    // The label that tells clusters apart, where one Prometheus has several; series without it are one cluster.
    clusterLabel: 'cluster',
    showMultiCluster: false,

    // Where people reach flyball (runbooks, the page) and Grafana (dashboards): what alerts link to.
    flyballURL: 'http://localhost:9838',
    grafanaURL: 'http://localhost:3000',
    runbookURLPattern: self.flyballURL + '/runbooks/%s',

    // Answers that count against the error budget, as in flyball's slo rules: what failed or was too late (5xx), what was
    // refused because of load (429), and what a replica broke off ("error"). What clients do themselves is left out: their
    // own 4xx, and 499, one that went before its answer.
    errorCodes: '429|5..|error',

    SLOs: {
      availability: {
        // Of all requests, over days.
        target: 0.995,
        days: 30,
        // The windows of the SRE workbook for 30 days: the alert is there when both the long and the short window burn
        // the budget factor times as fast as it lasts.
        windows: [
          { long: '1h', hours: 1, short: '5m', factor: 14.4, 'for': '2m', severity: 'critical' },
          { long: '6h', hours: 6, short: '30m', factor: 6, 'for': '15m', severity: 'critical' },
          { long: '1d', hours: 24, short: '2h', factor: 3, 'for': '1h', severity: 'warning' },
          { long: '3d', hours: 72, short: '6h', factor: 1, 'for': '3h', severity: 'warning' },
        ],
      },
    },
    // Fewer requests than this in the long window do not raise an alert: one failure of ten is no trend.
    minRequestsPerWindow: 100,

    // The share of requests, 0 to 1, that may be refused for a full queue without an alert: a burst that costs a few is
    // what a bounded queue is for.
    queueRefusedRatio: 0.01,

    // How often, 0 to 1, a value has to stay at or below the 0.9 quantile of its forecast.
    forecastMinCoverage: 0.8,

    // Models that may have no replica when nobody asks for them (min: 0), as a regular expression such as 'nightly|demo-.*'.
    scaleToZeroModels: '',

    // Names in Grafana.
    dashboardNamePrefix: 'flyball / ',
    tags: ['flyball-mixin'],
    refresh: '30s',
    timezone: 'utc',
    from: 'now-1h',
    datasourceName: 'default',
    datasourceFilterRegex: '',

    // Stable: links and bookmarks outlive a new version.
    grafanaDashboardIDs: {
      'flyball-overview.json': std.md5('flyball-overview.json'),
    },

    // Labels on the PrometheusRule, for the selector of a Prometheus operator.
    prometheusRuleLabels: { 'app.kubernetes.io/name': 'flyball', 'app.kubernetes.io/part-of': 'flyball-mixin' },
  },
}
