// Package rulestest tests rule files: Prometheus's own test files, as promtool runs them, and beside its keys those for
// rules that decide. A test gives series, a model of each target and faults; the rules are evaluated at virtual times by the
// groups of production; then what they recorded, which alerts fire and what they decided is compared with what is expected.
//
//	report, err := rulestest.Run(ctx, []string{"rules_test.yml"}, rulestest.Options{NewEngine: ...})
//	report.Text(os.Stdout, false)
//	if !report.Passed { ... }
//
// The keys of promtool mean what they mean there: rule_files, evaluation_interval, group_eval_order, fuzzy_compare, and of
// each test name, interval, input_series, promql_expr_test, alert_rule_test, external_labels, external_url, start_timestamp.
// As there, every group is evaluated at each evaluation_interval, whatever its own interval. The other keys of a test:
//
//   - target_model: {RULE_OR_TARGET: {replicas, startup, max, changes: [{at, replicas}], outages: [{from, to}]}}, what
//     each target does: its size at first (the rule's min), how long a start takes (the rule's startup), the most that its
//     platform gives, what somebody else does to it, and when it cannot be reached. Targets are simulated, and every scale rule acts on them, whatever its mode.
//   - faults: [{query, rule, from, to, kind}], where kind is error, empty, nan, stale (the data stops at from and grows old) or
//     slow (no answer within the engine's time), from from and before to.
//   - scale_rule_test: [{eval_time, rule, target, expect}], where expect has any of desired, current, ready, pending, min,
//     max, action, result, reasons, limited_by, confidence, cost_usd_per_hour, variants and signals. Lists are the
//     whole of it, in any order.
//   - invariant: expressions that hold of every decision, over desired, current, ready, pending, min, max, action, result,
//     reasons, limited_by, confidence, cost, rule, target, labels, elapsed (seconds), the rule's queries by name and
//     q.NAME.{ok,age,n}. One that names queries is for the rules that have all of them, and where it uses the value of a
//     query that has no valid answer, it is not asked.
//
// A record or alert rule that fails ends its test, as in promtool. A rule that decides may fail: a budget does while nothing is
// known of what was spent. What is expected of a scale rule at that time fails with its error.
//
// The package knows no store: it gets an [Engine] to evaluate groups.
package rulestest
