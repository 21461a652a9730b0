// The fleet on one page: what is asked for, how it is answered, who decided what, and whether flyball itself is well.
// Charts read the proxy's own series over $__rate_interval, so that they are as sharp as the time range allows; numbers and
// tables read the recorded model:... series, which are the same whoever measures the model, as are gpu:... of GPUs.
function(config)
  local g = import '../g.libsonnet';
  local q = import '../lib/promql.libsonnet';
  local cluster = config.clusterLabel;
  local inCluster = '%s=~"$cluster"' % cluster;
  local inModel = 'model=~"$model"';
  local inJob = 'job=~"$job"';
  local model(name) = q.select('model:' + name, [inCluster, inModel]);
  local gpu(name) = q.select('gpu:' + name, [inCluster]);
  local proxy(name, matchers=[]) = q.select('flyball_batchproxy_' + name, [inCluster, inJob, inModel] + matchers);
  local own(metric, matchers=[]) = q.select(metric, [inCluster, inJob] + matchers);
  // Rules write these to flyball's own store without a job: a selector of jobs would lose them there.
  local scale(name, matchers=[]) = q.select('flyball_scale_' + name, [inCluster, 'target=~"$target"'] + matchers);
  local forecast(name) = q.select('flyball_forecast_' + name, [inCluster]);
  local alerts = q.select('ALERTS', [inCluster, 'alertname=~"Flyball.*"', 'alertstate="firing"']);
  local rate(series) = 'rate(%s[$__rate_interval])' % series;
  local sum(labels, expr) = 'sum %s (%s)' % [q.by(labels), expr];
  local quantile(p, labels, histogram) = 'histogram_quantile(%g, sum %s (%s))' % [p, q.by(['le'] + labels), rate(histogram)];
  local dashed = { 'custom.lineStyle': { fill: 'dash', dash: [6, 6] }, 'custom.fillOpacity': 0 };

  local answered = proxy('requests_total');
  local failed = proxy('requests_total', ['code=~"%s"' % config.errorCodes]);
  local budget = 1 - config.SLOs.availability.target;

  g.dashboard(
    file='flyball-overview.json',
    title='Overview',
    description='Demand, answers, replicas, decisions and forecasts of all models, and the health of flyball itself.',
    config=config,
    variables=[
      g.datasourceVariable(config),
      g.labelVariable(
        'cluster',
        'Cluster',
        'label_values(up{%s}, %s)' % [config.flyballSelector, cluster],
        hide=!config.showMultiCluster
      ),
      g.labelVariable('job', 'Job', 'label_values(flyball_build_info{%s}, job)' % inCluster),
      g.labelVariable('model', 'Model', 'label_values(flyball_batchproxy_requests_total{%s, %s}, model)' % [inCluster, inJob]),
      g.labelVariable('target', 'Target', 'label_values(flyball_scale_desired_replicas{%s}, target)' % inCluster),
    ],
    annotations=[
      g.annotation(
        'Scaled',
        'blue',
        'sum by (rule, target, direction) (increase(flyball_scale_applied_total{%s, target=~"$target", result="applied"}[$__rate_interval])) > 0' % inCluster,
        '{{target}} scaled {{direction}}',
        'Rule {{rule}}; `flyball explain {{rule}}` says why.'
      ),
      g.annotation(
        'Firing alerts',
        'red',
        'max by (alertname, severity) (%s)' % alerts,
        '{{alertname}}',
        'An alert of severity {{severity}} fires.'
      ) { enable: false },
    ],
    links=[{
      title: 'flyball',
      type: 'link',
      url: config.flyballURL + '/',
      icon: 'external link',
      tooltip: 'The page of flyball: decisions with their traces',
      targetBlank: true,
      asDropdown: false,
      includeVars: false,
      keepTime: false,
      tags: [],
    }],
    rows=[
      g.row('Fleet', [
        g.stat(
          'Demand',
          'Requests that clients send, the refused ones too: model:flyball_arrivals:rate5m.',
          'reqps',
          [g.target('sum(%s)' % model('flyball_arrivals:rate5m'), 'demand')],
        ),
        g.stat(
          'Errors',
          'Share of requests that failed or were refused, all models together: model:flyball_request_error:ratio_rate5m, weighted by model:flyball_requests:rate5m.',
          'percentunit',
          [g.target(
            'sum(%(ratio)s * on (%(cluster)s, model) %(rate)s) / (sum(%(rate)s) > 0)'
            % { ratio: model('flyball_request_error:ratio_rate5m'), rate: model('flyball_requests:rate5m'), cluster: cluster },
            'errors'
          )],
          decimals=2,
          steps=[[null, 'green'], [budget, 'orange'], [10 * budget, 'red']],
        ),
        g.stat(
          'Latency p99',
          'The slowest model: model:flyball_request_duration_seconds:p99_5m.',
          's',
          [g.target('max(%s)' % model('flyball_request_duration_seconds:p99_5m'), 'p99')],
        ),
        g.stat(
          'Waiting',
          'Requests that wait to be sent to a replica: model:flyball_requests_waiting:sum.',
          'short',
          [g.target('sum(%s)' % model('flyball_requests_waiting:sum'), 'waiting')],
        ),
        g.stat(
          'Replicas ready',
          'Replicas that serve: flyball_scale_ready_replicas.',
          'short',
          [g.target('sum(max %s (%s))' % [q.by([cluster, 'job', 'instance', 'rule', 'target']), scale('ready_replicas')], 'ready')],
        ),
        g.stat(
          'Last change',
          'How long ago a size was changed: flyball_scale_last_change_timestamp_seconds.',
          's',
          [g.target('time() - max(%s)' % scale('last_change_timestamp_seconds'), 'ago')],
          decimals=0,
        ),
        g.stat(
          'Held',
          'Rules that hold a size because a metric is missing, stale or NaN: flyball_scale_blocked.',
          'short',
          [g.target(
            'count(max %s (%s)) or vector(0)'
            % [q.by([cluster, 'job', 'instance', 'rule', 'target']), scale('blocked', ['reason=~"MetricMissing|MetricStale|MetricNaN"'])],
            'held'
          )],
          steps=[[null, 'green'], [1, 'orange']],
        ),
        g.stat(
          'Firing alerts',
          'Alerts of this mixin that fire: ALERTS.',
          'short',
          [g.target('count(%s) or vector(0)' % alerts, 'firing')],
          steps=[[null, 'green'], [1, 'red']],
        ),
      ]),
      g.row('Models', [
        g.table(
          'Models now',
          'One line for each model, of the recorded series: model:flyball_arrivals:rate5m, model:flyball_request_error:ratio_rate5m, model:flyball_request_duration_seconds:p50_5m and :p99_5m, model:flyball_queue_duration_seconds:p99_5m, model:flyball_requests_waiting:sum, model:flyball_batch_size:avg5m, model:flyball_replicas_ready:max.',
          ['model'],
          [
            { name: 'Demand', unit: 'reqps' },
            { name: 'Errors', unit: 'percentunit' },
            { name: 'p50', unit: 's' },
            { name: 'p99', unit: 's' },
            { name: 'Queue p99', unit: 's' },
            { name: 'Waiting', unit: 'short' },
            { name: 'Batch', unit: 'short' },
            { name: 'Replicas', unit: 'short' },
          ],
          [
            g.target('sum by (model) (%s)' % model(name), instant=true, format='table')
            for name in [
              'flyball_arrivals:rate5m',
              'flyball_request_error:ratio_rate5m',
              'flyball_request_duration_seconds:p50_5m',
              'flyball_request_duration_seconds:p99_5m',
              'flyball_queue_duration_seconds:p99_5m',
              'flyball_requests_waiting:sum',
              'flyball_batch_size:avg5m',
              'flyball_replicas_ready:max',
            ]
          ],
          h=5,
        ),
        g.timeseries(
          'Demand and answers',
          'What clients send and what is answered: flyball_batchproxy_arrivals_total, flyball_batchproxy_requests_total.',
          'reqps',
          [
            g.target(sum(['model'], rate(proxy('arrivals_total'))), '{{model}} sent'),
            g.target(sum(['model'], rate(answered)), '{{model}} answered'),
          ],
        ),
        g.timeseries(
          'Latency',
          'From the arrival of a request to its answer, as the client saw it: flyball_batchproxy_request_duration_seconds.',
          's',
          [
            g.target(quantile(0.5, ['model'], proxy('request_duration_seconds_bucket')), '{{model}} p50'),
            g.target(quantile(0.99, ['model'], proxy('request_duration_seconds_bucket')), '{{model}} p99'),
          ],
        ),
        g.timeseries(
          'Errors',
          'Share of answers that are failures or refusals (%s) of flyball_batchproxy_requests_total.' % config.errorCodes,
          'percentunit',
          [g.target('(%s or 0 * %s) / (%s > 0)' % [
            sum(['model'], rate(failed)),
            sum(['model'], rate(answered)),
            sum(['model'], rate(answered)),
          ], '{{model}}')],
        ),
        g.timeseries(
          'Queue',
          'Requests that wait and requests that are with a replica: flyball_batchproxy_requests_waiting, flyball_batchproxy_requests_running.',
          'short',
          [
            g.target(sum(['model'], proxy('requests_waiting')), '{{model}} waiting'),
            g.target(sum(['model'], proxy('requests_running')), '{{model}} running'),
          ],
        ),
        g.timeseries(
          'Time in the queue',
          'How long requests wait to be sent in a batch: flyball_batchproxy_queue_duration_seconds.',
          's',
          [
            g.target(quantile(0.5, ['model'], proxy('queue_duration_seconds_bucket')), '{{model}} p50'),
            g.target(quantile(0.99, ['model'], proxy('queue_duration_seconds_bucket')), '{{model}} p99'),
          ],
        ),
        g.timeseries(
          'Batch size',
          'Rows in a batch, on average: flyball_batchproxy_batch_size.',
          'short',
          [g.target('%s / (%s > 0)' % [sum(['model'], rate(proxy('batch_size_sum'))), sum(['model'], rate(proxy('batch_size_count')))], '{{model}}')],
        ),
        g.timeseries(
          'Refused',
          'Requests that were refused, by reason: flyball_batchproxy_shed_total.',
          'reqps',
          [g.target(sum(['model', 'reason'], rate(proxy('shed_total'))), '{{model}} {{reason}}')],
        ),
        g.timeseries(
          'Time at the replica',
          'How long replicas take for a batch: flyball_batchproxy_upstream_duration_seconds.',
          's',
          [
            g.target(quantile(0.5, ['model'], proxy('upstream_duration_seconds_bucket')), '{{model}} p50'),
            g.target(quantile(0.99, ['model'], proxy('upstream_duration_seconds_bucket')), '{{model}} p99'),
          ],
        ),
        g.timeseries(
          'Why batches leave',
          'Batches by why they were sent: flyball_batchproxy_batches_total.',
          'ops',
          [g.target(sum(['model', 'reason'], rate(proxy('batches_total'))), '{{model}} {{reason}}')],
          stack=true,
        ),
      ]),
      g.row('Replicas and decisions', [
        g.timeseries(
          'Replicas',
          'What rules want and what serves: flyball_scale_desired_replicas, flyball_scale_ready_replicas, flyball_scale_min_replicas, flyball_scale_max_replicas.',
          'short',
          [
            g.target('max by (target) (%s)' % scale('desired_replicas'), '{{target}} desired'),
            g.target('max by (target) (%s)' % scale('ready_replicas'), '{{target}} ready'),
            g.target('max by (target) (%s)' % scale('min_replicas'), '{{target}} min'),
            g.target('max by (target) (%s)' % scale('max_replicas'), '{{target}} max'),
          ],
          overrides=[
            {
              matcher: { id: 'byRegexp', options: '.* (min|max)' },
              properties: [{ id: p, value: dashed[p] } for p in std.objectFields(dashed)],
            },
          ],
        ),
        g.timeseries(
          'What signals ask for',
          'Replicas that each signal asks for, before bounds and cooldowns: flyball_scale_signal_proposal_replicas.',
          'short',
          [g.target('max by (target, signal) (%s)' % scale('signal_proposal_replicas'), '{{target}} {{signal}}')],
        ),
        g.timeseries(
          'Decisions',
          'Evaluations of scale rules by what came out and the first reason: flyball_scale_decisions_total.',
          'ops',
          [g.target(
            sum(['action', 'reason'], 'rate(flyball_scale_decisions_total{%s, target=~"$target"}[$__rate_interval])' % inCluster),
            '{{action}} {{reason}}'
          )],
          stack=true,
        ),
        g.timeseries(
          'Held back',
          'Rules whose size a reason keeps from what the signals ask for: flyball_scale_blocked. Zero where nothing does.',
          'short',
          [g.target('sum by (target, reason) (%s) or label_replace(vector(0), "reason", "nothing held", "", "")' % scale('blocked'), '{{target}} {{reason}}')],
          stack=true,
        ),
        g.timeseries(
          'Replicas by state',
          'Replicas that run on these machines: flyball_process_replicas.',
          'short',
          [g.target(sum(['target', 'state'], own('flyball_process_replicas', ['target=~"$target"'])), '{{target}} {{state}}')],
          stack=true,
        ),
        g.timeseries(
          'Restarts',
          'Replicas that ended without being told to: flyball_process_restarts_total, in each interval of the chart.',
          'short',
          [g.target(sum(['target', 'reason'], 'increase(%s[$__rate_interval])' % own('flyball_process_restarts_total', ['target=~"$target"'])), '{{target}} {{reason}}')],
        ),
      ]),
      g.row('Forecasts', [
        g.timeseries(
          'Demand and its forecast',
          'The value that is forecast (flyball_forecast_observed_value), and what each forecast rule says for its lead ahead, drawn when it was said; of several series the largest, as a scale rule takes it. Nothing without forecast rules.',
          'short',
          [
            g.target('max by (forecast) (%s)' % forecast('observed_value'), '{{forecast}} value'),
            g.target('max by (__name__, quantile) ({%s, horizon="lead", quantile=~".+"})' % inCluster, '{{__name__}} {{quantile}}'),
          ],
          w=12,
        ),
        g.timeseries(
          'Better than the last value',
          'By how much the recent error of a forecast is below that of the last value and of an exponential mean: flyball_forecast_skill_ratio. At 0 or less it is of no use, and not used.',
          'percentunit',
          [g.target('min by (forecast) (%s)' % forecast('skill_ratio'), '{{forecast}}')],
          w=6,
          min=null,
        ),
        g.timeseries(
          'Used',
          'Whether scale rules use the forecast: flyball_forecast_armed.',
          'bool_yes_no',
          [g.target('min by (forecast) (%s)' % forecast('armed'), '{{forecast}}')],
          w=6,
          max=1,
        ),
        g.timeseries(
          'Quantiles held',
          'How often the value stayed at or below each quantile, at about the lead: flyball_forecast_coverage_ratio. A quantile of 0.9 should be at 0.9.',
          'percentunit',
          [g.target('min by (forecast, quantile) (%s)' % forecast('coverage_ratio'), '{{forecast}} {{quantile}}')],
          w=6,
          max=1,
        ),
        g.timeseries(
          'Weights of models',
          'The part that each model has in the forecast: flyball_forecast_model_weight.',
          'percentunit',
          [g.target('avg by (forecast, model) (%s)' % forecast('model_weight'), '{{forecast}} {{model}}')],
          w=6,
          stack=true,
        ),
        g.timeseries(
          'Anomalies',
          'How many standard deviations the last value was off its forecast: flyball_forecast_anomaly_score. Nothing for rules without anomalies: true.',
          'short',
          [g.target('max by (forecast) (%s)' % forecast('anomaly_score'), '{{forecast}}')],
          w=6,
          min=null,
        ),
        g.timeseries(
          'Age of fits',
          'Time since the models of a forecast were last fitted: flyball_forecast_last_fit_timestamp_seconds.',
          's',
          [g.target('time() - min by (forecast) (%s)' % forecast('last_fit_timestamp_seconds'), '{{forecast}}')],
          w=6,
        ),
      ]),
      g.row('Health of flyball', [
        g.timeseries(
          'Firing alerts',
          'Alerts of this mixin that fire: ALERTS. Zero where none does.',
          'short',
          [g.target('count by (alertname, severity) (%s) or label_replace(vector(0), "alertname", "none", "", "")' % alerts, '{{alertname}} {{severity}}')],
          stack=true,
        ),
        g.timeseries(
          'Evaluation time of rule groups',
          'How long the last evaluation of each group took: flyball_rule_group_duration_seconds.',
          's',
          [g.target('max by (group) (%s)' % own('flyball_rule_group_duration_seconds'), '{{group}}')],
        ),
        g.timeseries(
          'Age of rule groups',
          'Time since each group was last evaluated: flyball_rule_group_last_evaluation_timestamp_seconds.',
          's',
          [g.target('time() - max by (group) (%s)' % own('flyball_rule_group_last_evaluation_timestamp_seconds'), '{{group}}')],
        ),
        g.timeseries(
          'Failures',
          'Missed evaluations, failed rules, failed calls to actuators, decisions that could not be recorded: flyball_rule_group_iterations_missed_total, flyball_rule_failures_total, flyball_actuator_errors_total, flyball_scale_journal_errors_total.',
          'ops',
          [
            g.target('sum(%s) or vector(0)' % rate(own('flyball_rule_group_iterations_missed_total')), 'missed evaluations'),
            g.target('sum(%s) or vector(0)' % rate(own('flyball_rule_failures_total')), 'rule failures'),
            g.target('sum(%s) or vector(0)' % rate(own('flyball_actuator_errors_total')), 'actuator errors'),
            g.target('sum(%s) or vector(0)' % rate(own('flyball_scale_journal_errors_total')), 'journal errors'),
          ],
        ),
        g.timeseries(
          'Calls to actuators',
          'How long calls take, 99 of 100: flyball_actuator_request_duration_seconds.',
          's',
          [g.target(quantile(0.99, ['actuator', 'op'], own('flyball_actuator_request_duration_seconds_bucket')), '{{actuator}} {{op}}')],
        ),
        g.timeseries(
          'Collectors',
          'Whether each collector of the exporter gave all its figures: flyball_collector_success.',
          'bool_yes_no',
          [g.target('min by (collector) (%s)' % own('flyball_collector_success'), '{{collector}}')],
          max=1,
        ),
      ]),
      g.row('Hosts and GPUs', [
        g.timeseries(
          'CPU',
          'Share of CPU time in use: flyball_node_cpu_seconds_total.',
          'percentunit',
          [g.target('1 - sum by (instance) (%s) / max by (instance) (%s)' % [rate(own('flyball_node_cpu_seconds_total', ['mode="idle"'])), own('flyball_node_cpus')], '{{instance}}')],
          max=1,
        ),
        g.timeseries(
          'Memory',
          'Share of memory that is not available: flyball_node_memory_available_bytes, flyball_node_memory_total_bytes.',
          'percentunit',
          [g.target('1 - max by (instance) (%s) / max by (instance) (%s)' % [own('flyball_node_memory_available_bytes'), own('flyball_node_memory_total_bytes')], '{{instance}}')],
          max=1,
        ),
        g.timeseries(
          'Network',
          'Bytes that come and go: flyball_node_network_receive_bytes_total, flyball_node_network_transmit_bytes_total.',
          'Bps',
          [
            g.target(sum(['instance'], rate(own('flyball_node_network_receive_bytes_total'))), '{{instance}} in'),
            g.target(sum(['instance'], rate(own('flyball_node_network_transmit_bytes_total'))), '{{instance}} out'),
          ],
        ),
        g.timeseries(
          'GPU utilisation',
          'Share of time in which a kernel ran, by flyball or a dcgm-exporter: gpu:utilization:ratio. Nothing where there is no GPU.',
          'percentunit',
          [g.target('max by (instance, gpu) (%s)' % gpu('utilization:ratio'), '{{instance}} {{gpu}}')],
          w=12,
          max=1,
        ),
        g.timeseries(
          'GPU memory',
          'Share of memory in use, of GPUs and instances of MIG: gpu:memory_used:bytes, gpu:memory_total:bytes. Nothing where there is no GPU.',
          'percentunit',
          [g.target('max by (instance, gpu, gi) (%s) / max by (instance, gpu, gi) (%s)' % [gpu('memory_used:bytes'), gpu('memory_total:bytes')], '{{instance}} {{gpu}} {{gi}}')],
          w=12,
          max=1,
        ),
      ]),
    ],
  )
