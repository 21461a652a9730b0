// Package peertest runs the programs that flyball works beside, for tests: a real Prometheus, VictoriaMetrics, Alertmanager,
// a browser. .ci/components, which make test calls, puts them in place.
//
//	p := peertest.Prometheus(t, "scrape_configs: ...")
//	resp, err := http.Get(p.URL + "/api/v1/query?query=up")
//
// A test whose program is missing is skipped with the reason, and fails where the environment says CI=true. Servers listen
// on loopback, keep their data in the test's own folder and are gone when the test is.
package peertest
