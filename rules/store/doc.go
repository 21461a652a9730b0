// Package store is the embedded Prometheus: a time series database on disk, the PromQL engine over it, the scraper that
// fills it, and the rule groups that read it and write back into it. It is the only package that imports Prometheus's
// tsdb, promql, scrape, rules, notifier, config and discovery; everything else speaks to it in the words of package rules
// (Sample, Querier, Evaluator).
//
// A Store goes through these steps:
//
//	opts := store.DefaultOptions()
//	opts.Dir = "data"
//	s, err := store.Open(opts)          // locks the directory, replays the write-ahead log
//	err = s.ApplyScrape(scrape)         // what to scrape; may be called again at any time
//	err = s.SetGroups(groups)           // which rules to evaluate; may be called again at any time
//	err = s.ApplyAlerting(alerting)     // which Alertmanagers to send alerts to; may be called again at any time
//	err = s.Run(ctx)                    // scrapes, evaluates and sends alerts until ctx ends
//	err = s.Close()                     // closes the database and lets go of the directory
//
// # Rule groups
//
// A Group holds record and alert rules, which are Prometheus's own, and Evaluators, which are ours. All rules of a group
// are evaluated one after the other at one timestamp, each sees what those above it wrote, and what a rule no longer
// returns is marked stale. An Evaluator that fails takes its series away at once, so that nothing below it or in a
// dashboard goes on believing its last answer; a failed record or alert rule keeps them for the lookback, as in
// Prometheus.
//
// Groups are evaluated at slots: each group has a fixed offset within its interval, taken from its name and file, so
// that groups do not all run at the same moment and that a restart does not shift the distance between samples. A slow
// evaluation is never joined by a second one of the same group; the slots that it overran are counted in
// flyball_rule_group_iterations_missed_total. EvalGroups runs the same evaluation at a time that the caller chooses, which
// is what tests and backtests use instead of Run.
//
// # Prometheus's HTTP API
//
// QueryInstant, QuerySteps, LabelNames, LabelValues, ListSeries, ListRules, ListAlerts, ListTargets, ListMetadata, FormatExpr
// and Exemplars answer Prometheus's API in the words of package promapi, for a handler to put on HTTP. Options.APIConcurrency
// of them are under way at once; the rules' own queries do not wait for them.
//
// # A Prometheus elsewhere
//
// With Config.Remote queries go there, save those of nothing but what the groups write, which live here: Router answers
// each on its side, and record and alert rules ask in the same way. Prepare refuses a query that needs both sides. Router
// answers Prometheus's API in the same way, with the names, values and series of both sides.
// Config.RemoteWrites sends what is written here on, by Prometheus's own queues over the write-ahead log.
//
// # Scraping
//
// ParseScrapeConfigs reads scrape_configs in Prometheus's format with static, file, HTTP and Kubernetes discovery. A Job scrapes the
// replicas of an actuator's target and follows the list that the actuator gives. A Self scrapes flyball's own metrics.
//
// # Alerts
//
// ParseAlerting reads alerting in Prometheus's format. While Run runs, the alerts of alert rules go to every Alertmanager
// that there is, through Prometheus's notifier: when they begin to fire, again each Options.ResendDelay, and when they have
// ended. Each says when it ends by itself, four times the longer of ResendDelay and the group's interval from now; so what
// a killed process has left there goes away. An evaluation never waits for an Alertmanager: alerts are queued, and those that one
// does not take are sent anew when they are due again. EvalGroups sends nothing.
package store
