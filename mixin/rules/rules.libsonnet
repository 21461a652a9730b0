// What is known of a model under one name, whoever measured it. Names are level:metric:operation.
{
  local config = self._config,
  local q = import '../lib/promql.libsonnet',
  local sources = (import 'sources.libsonnet')(config),
  local on = 'or on (%s, model) ' % config.clusterLabel,

  // first joins the expressions of all sources, so that each model has the first one that knows it.
  local first(expression) = std.join('\n%s' % on, [expression(s) for s in sources]),
  local record(name, expression) = { record: 'model:' + name, expr: q.block(first(expression)) },
  local errorRatio(window) = record('flyball_request_error:ratio_rate' + window, function(s)
    '%s\n/ (%s > 0)' % [s.errors(window), s.requests(window)]),

  local windows = config.SLOs.availability.windows,
  // 5m is in the first group, which is evaluated as often as anything is.
  local ratioWindows = std.set([w.long for w in windows] + [w.short for w in windows if w.short != '5m']),

  prometheusRules+:: {
    groups+: [
      {
        name: 'flyball-model',
        rules: [
          record('flyball_arrivals:rate5m', function(s) s.arrivals('5m')),
          record('flyball_requests:rate5m', function(s) s.requests('5m')),
          errorRatio('5m'),
          record('flyball_request_duration_seconds:p50_5m', function(s) s.latency(0.5, '5m')),
          record('flyball_request_duration_seconds:p99_5m', function(s) s.latency(0.99, '5m')),
          record('flyball_queue_duration_seconds:p99_5m', function(s) s.queueTime(0.99, '5m')),
          record('flyball_requests_waiting:sum', function(s) s.waiting),
          record('flyball_requests_running:sum', function(s) s.running),
          record('flyball_batch_size:avg5m', function(s) s.batchSize('5m')),
          record('flyball_replicas_ready:max', function(s) s.ready),
        ],
      },
      {
        // Hours and days of samples are read here: once a minute is often enough for what changes over hours.
        name: 'flyball-model-slo',
        interval: '1m',
        rules: [errorRatio(w) for w in ratioWindows] +
               [record('flyball_requests:rate' + w, function(s) s.requests(w)) for w in std.set([w.long for w in windows])],
      },
    ],
  },
}
