// Where figures about a model come from, the first choice first. What the client saw, at the proxy, comes before what an
// engine says of itself: it has the queue and the network in it. Each source is the same set of expressions with the labels
// cluster and model; rules.libsonnet takes for each model the first source that has it.
function(config)
  local q = import '../lib/promql.libsonnet';
  local keep = q.by([config.clusterLabel, 'model']);
  local own = config.flyballSelector;

  local proxy = {
    local metric(name, matchers=[]) = q.select('flyball_batchproxy_' + name, [own] + matchers),
    local rate(name, window, matchers=[]) = 'sum %s (rate(%s[%s]))' % [keep, metric(name, matchers), window],
    local quantile(p, name, window) =
      'histogram_quantile(%g, sum %s (rate(%s[%s])))' % [p, q.by([config.clusterLabel, 'model', 'le']), metric(name + '_bucket'), window],

    arrivals(window): rate('arrivals_total', window),
    requests(window): rate('requests_total', window),
    // A model without a failure has no series of failures: zero of its requests stand in.
    errors(window):
      '(%s or 0 * %s)' % [rate('requests_total', window, ['code=~"%s"' % config.errorCodes]), rate('requests_total', window)],
    latency(p, window): quantile(p, 'request_duration_seconds', window),
    queueTime(p, window): quantile(p, 'queue_duration_seconds', window),
    waiting: 'sum %s (%s)' % [keep, metric('requests_waiting')],
    running: 'sum %s (%s)' % [keep, metric('requests_running')],
    batchSize(window): '%s / (%s > 0)' % [rate('batch_size_sum', window), rate('batch_size_count', window)],
    // Proxies that send to the same replicas each count them.
    ready: 'max %s (%s)' % [keep, metric('replicas_ready')],
  };
  [proxy]
