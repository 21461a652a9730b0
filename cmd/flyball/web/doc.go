// Package web is flyball's page, its pages of a graph and of a forecast, the freeze button and the API of its decisions, at the paths that names.md
// of the design gives:
//
//	/                                   what runs, what was decided and why
//	/graph                              one PromQL expression as a table and a chart; links in alerts point there
//	/forecasts/{name}                   one forecast: what it said and what came, what comes next, and whether it is armed
//	/-/freeze                           POST stops all acting, POST with release=1 lets it go on
//	/api/v1/flyball/decisions           newest first; parameters rule, since, until, limit, every
//	/api/v1/flyball/decisions/{id}      one decision, with all of its inputs
//	/api/v1/flyball/forecasts           forecast rules: what comes next, models, seasons, whether they are armed; parameter name
//	/api/v1/flyball/{models,rules,targets}  models behind the proxy, rules that decide, replicas of actuator targets
//	/api/v1/...                         Prometheus's HTTP API over the store: Prometheus
//
// The page is tables that need no JavaScript. With it, they refresh without losing what is open, focused or scrolled, and
// the scale rules have charts, whose data comes from /api/v1/query_range. The query string holds the whole state (rule,
// model, decision, range, refresh), so that a link shows the same to others. Scripts and styles are embedded, compressed
// once and kept by browsers under addresses with a hash of their content; the security policy lets nothing else in.
//
// It reads through small interfaces and functions that cmd/flyball fills, and has no logic of its own. Answers of the API
// have the form of Prometheus's: {"status": "success", "data": ...} or {"status": "error", "errorType": ..., "error": ...}.
package web
