// Package dashboard reads Grafana dashboards, of anybody, and says what is wrong with their Prometheus queries: what does
// not parse (at its line and column in the JSON), what does not follow Grafana's own rules of style, and what a Prometheus
// has no data for, with the name that was probably meant.
//
//	d, err := dashboard.Read("overview.json", text)     // classic, wrapped for Kubernetes or the API, or of schema v2
//	findings := d.Check()                               // PromQL and variables
//	findings = append(findings, d.Lint(exclusions)...)  // the rules of dashboard-linter
//	against := dashboard.Against{API: dashboard.Prometheus(api), ...}
//	more, err := against.Check(ctx, d, progress)        // asks each query of a Prometheus
//
// Queries of other data sources are counted in Skipped, not looked at. Library panels live elsewhere in Grafana and are
// counted too.
package dashboard
