// Package web is flyball's page and the API of its decisions, at the paths that names.md of the design gives:
//
//	/                                   what runs, what was decided and why, in tables that need no JavaScript
//	/api/v1/flyball/decisions           newest first; parameters rule, since, until, limit
//	/api/v1/flyball/decisions/{id}      one decision, with all of its inputs
//	/api/v1/flyball/{models,rules,targets}  models behind the proxy, rules that decide, replicas of actuator targets
//	/api/v1/...                         Prometheus's HTTP API over the embedded store: Prometheus
//
// It reads through small interfaces and functions that cmd/flyball fills, and has no logic of its own. Answers of the API
// have the form of Prometheus's: {"status": "success", "data": ...} or {"status": "error", "errorType": ..., "error": ...}.
package web
