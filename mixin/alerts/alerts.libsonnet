// Alerts for what can go wrong, each with a runbook of its name. Labels never hold values; annotations may. There is none
// where nobody has to act: a size that flaps is held by its rule's flap_budget, and a recommendation of an optimize rule
// waits on the page for whoever looks.
{
  local config = self._config,
  local q = import '../lib/promql.libsonnet',
  local cluster = config.clusterLabel,
  local own(metric, matchers=[]) = q.select(metric, [config.flyballSelector] + matchers),
  local scale(metric, matchers=[]) = q.select(metric, [config.scaleSelector] + matchers),
  local by(labels) = q.by([cluster] + labels),
  // A process of its own for each instance: of two that run the same rules one may be well and the other not. In flyball's
  // own store, where rules write without a job, both labels are empty.
  local byProcess(labels) = by(['job', 'instance'] + labels),
  local onInstance = '{{ with $labels.instance }} on {{ . }}{{ end }}',
  local dashboard = '%s/d/%s' % [config.grafanaURL, config.grafanaDashboardIDs['flyball-overview.json']],

  // forModel links the dashboard to the alert's model.
  local forModel = '?var-model={{ $labels.model | urlquery }}',

  local alert(name, severity, duration, expr, summary, description, link='') = {
    alert: name,
    expr: q.block(expr),
    [if duration != '0m' then 'for']: duration,
    labels: { severity: severity },
    annotations: {
      summary: summary,
      description: description,
      runbook_url: config.runbookURLPattern % name,
      dashboard_url: dashboard + link,
    },
  },

  // A model that scales to zero has no replica on purpose, unless requests come.
  local toZero = config.scaleToZeroModels,
  local noReady = if toZero == '' then '%s == 0' % own('flyball_batchproxy_replicas_ready') else |||
    %(always)s == 0
    or
    (
      %(sometimes)s == 0
      and on (%(cluster)s, job, instance, model)
      sum %(by)s (rate(%(arrivals)s[5m])) > 0
    )
  ||| % {
    always: own('flyball_batchproxy_replicas_ready', ['model!~"%s"' % toZero]),
    sometimes: own('flyball_batchproxy_replicas_ready', ['model=~"%s"' % toZero]),
    arrivals: own('flyball_batchproxy_arrivals_total', ['model=~"%s"' % toZero]),
    by: byProcess(['model']),
    cluster: cluster,
  },

  local slo = config.SLOs.availability,
  local budget = 1 - slo.target,
  local burn(w) = alert(
    'FlyballModelErrorBudgetBurn',
    w.severity,
    w['for'],
    |||
      (
        model:flyball_request_error:ratio_rate%(long)s > %(factor)g * %(budget)g
        and
        model:flyball_request_error:ratio_rate%(short)s > %(factor)g * %(budget)g
      )
      and
      model:flyball_requests:rate%(long)s * %(hours)d * 3600 >= %(least)d
    ||| % (w { budget: budget, least: config.minRequestsPerWindow }),
    'A model fails requests faster than its error budget allows.',
    'Model {{ $labels.model }}: {{ $value | humanizePercentage }} of the requests of the last %s failed or were refused; the target is %g %% good requests in %d days.'
    % [w.long, slo.target * 100, slo.days],
    forModel,
  ) + { labels+: { long: w.long, short: w.short } },

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'flyball-model-alerts',
        rules: [burn(w) for w in slo.windows] + [
          alert(
            'FlyballQueueSaturated',
            'warning',
            '5m',
            |||
              sum %(reason)s (rate(%(shed)s[5m]))
              / on (%(cluster)s, model) group_left ()
              (sum %(model)s (rate(%(arrivals)s[5m])) > 0)
              > %(ratio)g
            ||| % {
              cluster: cluster,
              reason: by(['model', 'reason']),
              model: by(['model']),
              shed: own('flyball_batchproxy_shed_total', ['reason!="draining"']),
              arrivals: own('flyball_batchproxy_arrivals_total'),
              ratio: config.queueRefusedRatio,
            },
            'Requests are refused because too many wait.',
            'Model {{ $labels.model }}: {{ $value | humanizePercentage }} of the requests are refused ({{ $labels.reason }}): the queue is full, requests wait in it for too long, or their bodies take too much memory.',
            forModel,
          ),
          alert(
            'FlyballNoReadyReplicas',
            'critical',
            '2m',
            noReady,
            'A model has no replica that answers.',
            'Model {{ $labels.model }}: the proxy {{ $labels.instance }} has no ready replica to send to; requests wait or are refused.',
            forModel,
          ),
          alert(
            'FlyballReplicaRestarting',
            'warning',
            '0m',
            'sum %s (increase(%s[15m])) > 2' % [byProcess(['target', 'reason']), own('flyball_process_restarts_total')],
            'Replicas end and are started again and again.',
            'Target {{ $labels.target }} of {{ $labels.instance }}: about {{ $value | humanize }} restarts in 15 minutes ({{ $labels.reason }}).',
          ),
        ],
      },
      {
        name: 'flyball-scale-alerts',
        rules: [
          alert(
            'FlyballScaleHeld',
            'warning',
            '10m',
            'max %s (%s) > 0' % [byProcess(['rule', 'target']), scale('flyball_scale_blocked', ['reason=~"MetricMissing|MetricStale|MetricNaN"'])],
            'A scale rule holds its size because it cannot see the demand.',
            'Rule {{ $labels.rule }}%s: {{ $labels.target }} keeps its size: a query has no answer, an old one or no number (MetricMissing, MetricStale or MetricNaN).' % onInstance,
          ),
          alert(
            'FlyballAtMaxReplicas',
            'warning',
            '15m',
            |||
              max %(by)s (%(desired)s) >= max %(by)s (%(max)s)
              and
              max %(by)s (%(max)s) > max %(by)s (%(min)s)
            ||| % {
              by: byProcess(['rule', 'target']),
              desired: scale('flyball_scale_desired_replicas'),
              max: scale('flyball_scale_max_replicas'),
              min: scale('flyball_scale_min_replicas'),
            },
            'A scale rule wants all the replicas that it may have.',
            'Rule {{ $labels.rule }}%s: {{ $labels.target }} is at its max of {{ $value }} replicas; more demand than this is not served.' % onInstance,
          ),
          alert(
            'FlyballScaleCapped',
            'warning',
            '15m',
            'max %s (%s) > 0' % [byProcess(['rule', 'target']), scale('flyball_scale_blocked', ['reason="BudgetCap"'])],
            'A budget that is used up keeps a scale rule from the size that it wants.',
            'Rule {{ $labels.rule }}%s: {{ $labels.target }} is smaller than the demand asks for: the hard cap of a budget leaves no more (BudgetCap).' % onInstance,
          ),
          alert(
            'FlyballBudgetUsedUp',
            'warning',
            '15m',
            // A threshold that caps need not be at 1, and a budget need not have one. One whose own alert at 1 or above fires
            // has been told already.
            |||
              (
                max %(by)s (%(usedUp)s) == 1
                or
                max %(by)s (%(spend)s) >= max %(by)s (%(limit)s)
              )
              unless on (%(cluster)s, budget)
              %(told)s
            ||| % {
              by: byProcess(['budget']),
              cluster: cluster,
              usedUp: scale('flyball_budget_used_up'),
              spend: scale('flyball_budget_spend_usd'),
              limit: scale('flyball_budget_limit_usd'),
              told: 'ALERTS{alertstate="firing", budget!="", type="actual", at=~"[1-9].*"}',
            },
            'A budget is used up.',
            'Budget {{ $labels.budget }}%s: as much has been spent as its limit, or the threshold that caps, allows for the period.' % onInstance,
          ),
          alert(
            'FlyballReplicasNotReady',
            'warning',
            '1m',
            'max %s (%s) > 0' % [byProcess(['rule', 'target']), scale('flyball_scale_overdue_replicas')],
            'Replicas that were asked for do not come up.',
            "Rule {{ $labels.rule }}%s: {{ $value }} replicas of {{ $labels.target }} that were asked for are past the rule's progress deadline." % onInstance,
          ),
          alert(
            'FlyballFrozen',
            'info',
            '4h',
            '%s == 1' % own('flyball_scale_paused'),
            'Acting has been frozen for hours; somebody may have forgotten.',
            'Process {{ $labels.instance }} decides and records, and changes nothing, until it is unfrozen.',
          ),
          alert(
            'FlyballServiceWatchDown',
            'warning',
            '5m',
            '%s == 0' % own('flyball_batchproxy_service_watch_up'),
            'The endpoints of a Kubernetes Service are not followed.',
            'Process {{ $labels.instance }} sends to the endpoints of {{ $labels.upstream }} as they were known last; pods that have come or gone since are not seen.',
          ),
          alert(
            'FlyballTargetPaused',
            'info',
            '12h',
            // A demand that comes and goes wants no other size now and then.
            'max %s (max_over_time(%s[1h])) > 0' % [byProcess(['rule', 'target']), scale('flyball_scale_blocked', ['reason="Paused"'])],
            'A target has been paused for half a day; somebody may have forgotten.',
            'Rule {{ $labels.rule }}%s wants another size of {{ $labels.target }}, and is not to change it.' % onInstance,
          ),
          alert(
            'FlyballForecastNotArmed',
            'info',
            '1d',
            'max %s (%s) == 0' % [byProcess(['rule', 'signal', 'forecast']), scale('flyball_scale_signal_armed')],
            'A scale rule has a forecast that it does not use.',
            'Rule {{ $labels.rule }}%s: forecast {{ $labels.forecast }} of signal {{ $labels.signal }} has not been armed for a day, so replicas come after the load, as without it.' % onInstance,
          ),
          alert(
            'FlyballForecastTooLow',
            'info',
            '1d',
            // What an armed forecast says is what replicas are asked for by.
            |||
              min %(by)s (%(coverage)s) < %(least)g
              and on (%(cluster)s, job, instance, forecast)
              max %(by)s (%(armed)s) == 1
            ||| % {
              by: byProcess(['forecast']),
              cluster: cluster,
              coverage: scale('flyball_forecast_coverage_ratio', ['quantile="0.9"']),
              armed: scale('flyball_forecast_armed'),
              least: config.forecastMinCoverage,
            },
            'A forecast is exceeded more often than it says.',
            'Forecast {{ $labels.forecast }}%s: the value stayed at or below its 0.9 quantile in {{ $value | humanizePercentage }} of the time only, for a day.' % onInstance,
          ),
          alert(
            'FlyballForecastNotFitted',
            'info',
            '1h',
            // A fit is due each six hours, at the longest each day and a half where only a long season is named.
            |||
              max %(forecast)s (time() - %(fitted)s) > 2 * 86400
              or
              sum %(process)s (increase(%(failures)s[3h])) >= 3
            ||| % {
              forecast: byProcess(['forecast']),
              process: byProcess([]),
              fitted: scale('flyball_forecast_last_fit_timestamp_seconds'),
              failures: own('flyball_forecast_fit_failures_total'),
            },
            'The models of a forecast are not fitted anew.',
            '{{ with $labels.forecast }}Forecast {{ . }} was last fitted {{ $value | humanizeDuration }} ago{{ else }}{{ $value | humanize }} fits of forecasts failed or took too long in three hours{{ end }}%s; forecasts go on with the models of before.' % onInstance,
          ),
          alert(
            'FlyballActuatorFailing',
            'warning',
            '10m',
            'sum %s (rate(%s[5m])) > 0' % [byProcess(['actuator', 'op']), own('flyball_actuator_errors_total')],
            'Sizes cannot be read or changed.',
            'Actuator {{ $labels.actuator }} of {{ $labels.instance }}: calls to {{ $labels.op }} fail, {{ $value | humanize }} a second.',
          ),
          alert(
            'FlyballScaleJournalErrors',
            'critical',
            '0m',
            'sum %s (increase(%s[15m])) > 0' % [byProcess([]), own('flyball_scale_journal_errors_total')],
            'Decisions cannot be written to the journal, so nothing is scaled.',
            'Process {{ $labels.instance }}: decisions cannot be recorded, and what is not recorded is not done. The disk may be full or not writable.',
          ),
        ],
      },
      {
        name: 'flyball-health-alerts',
        rules: [
          alert(
            'FlyballTargetMissing',
            'critical',
            '5m',
            'absent(%s)' % own('up'),
            'No flyball is scraped.',
            'Prometheus has no target with %s: flyball is not in its configuration, or discovery does not find it. All other alerts are silent meanwhile.' % config.flyballSelector,
          ),
          alert(
            'FlyballTargetDown',
            'critical',
            '5m',
            '%s == 0' % own('up'),
            'A flyball process cannot be scraped.',
            'Process {{ $labels.instance }} of job {{ $labels.job }} does not answer scrapes.',
          ),
          alert(
            'FlyballStoreFull',
            'critical',
            '2m',
            '%s == 1' % own('flyball_store_full'),
            'Nothing is written to the data directory: its disk is nearly full or read-only.',
            'Process {{ $labels.instance }} stores no samples: the disk of storage.path has less than storage.min_free left, or cannot be written. Scale rules hold the size they have.',
          ),
          alert(
            'FlyballRuleEvaluationFailing',
            'warning',
            '5m',
            'sum %s (increase(%s[5m])) > 0' % [byProcess(['group', 'rule']), own('flyball_rule_failures_total')],
            'A rule cannot be evaluated.',
            'Rule {{ $labels.rule }} of group {{ $labels.group }} on {{ $labels.instance }} failed about {{ $value | humanize }} times in 5 minutes.',
          ),
          alert(
            'FlyballRuleGroupMissed',
            'warning',
            '15m',
            'sum %s (increase(%s[5m])) > 0' % [byProcess(['group']), own('flyball_rule_group_iterations_missed_total')],
            'A rule group takes longer than its interval.',
            'Group {{ $labels.group }} on {{ $labels.instance }} left out about {{ $value | humanize }} evaluations in 5 minutes: its rules decide on less than they should.',
          ),
          alert(
            'FlyballCollectorFailing',
            'warning',
            '15m',
            '%s == 0' % own('flyball_collector_success'),
            'A collector of the exporter fails.',
            'Collector {{ $labels.collector }} on {{ $labels.instance }} gives no or not all of its figures.',
          ),
          alert(
            'FlyballGPULost',
            'critical',
            '5m',
            '%s == 0' % own('flyball_gpu_up'),
            'A GPU that was there can no longer be read.',
            'GPU {{ $labels.gpu }} ({{ $labels.uuid }}) on {{ $labels.instance }} does not answer the driver.',
          ),
          alert(
            'FlyballConfigReloadFailed',
            'warning',
            '5m',
            '%s == 0' % own('flyball_config_last_reload_successful'),
            'The configuration on disk is not the one that runs.',
            'Process {{ $labels.instance }} refused its configuration at the last reload and goes on with the one before.',
          ),
          alert(
            'FlyballNotificationsFailing',
            'warning',
            '10m',
            |||
              sum %(by)s (rate(%(errors)s[5m])) > 0
              or
              sum %(by)s (rate(%(dropped)s[5m])) > 0
            ||| % {
              by: byProcess([]),
              errors: own('flyball_notifications_errors_total'),
              dropped: own('flyball_notifications_dropped_total'),
            },
            'Alerts do not reach an Alertmanager.',
            'Process {{ $labels.instance }}: {{ $value | humanize }} alerts a second are lost on their way to Alertmanager.',
          ),
          alert(
            'FlyballSpansDropped',
            'info',
            '15m',
            // Those that are lost as the process ends are no more than it says.
            'sum %s (rate(%s[5m])) > 0' % [byProcess(['reason']), own('flyball_tracing_dropped_spans_total', ['reason!="shutdown"'])],
            'Spans do not reach the collector.',
            'Process {{ $labels.instance }}: {{ $value | humanize }} spans a second are lost ({{ $labels.reason }}), so traces have gaps.',
          ),
        ],
      },
    ],
  },
}
