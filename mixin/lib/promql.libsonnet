// Parts of PromQL expressions.
{
  // A selector: the metric with the matchers that are not empty.
  select(metric, matchers)::
    local given = [m for m in matchers if m != ''];
    if given == [] then metric else '%s{%s}' % [metric, std.join(', ', given)],

  // A text that ends in a line break is written to YAML as it reads.
  block(expr):: std.rstripChars(expr, '\n') + '\n',

  // Which labels are kept, as in by(['cluster', 'model']).
  by(labels):: 'by (' + std.join(', ', labels) + ')',
}
