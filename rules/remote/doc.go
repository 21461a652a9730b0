// Package remote asks a Prometheus elsewhere: Prometheus itself, Thanos, Mimir, VictoriaMetrics, whatever answers
// /api/v1/query. Its Client is a rules.Querier, so that a scale rule does not notice where its numbers come from.
//
//	c := remote.DefaultConfig()
//	c.URL = "http://prometheus:9090"              // or with a path prefix, such as .../prometheus or .../select/0/prometheus
//	client, err := remote.New(c, remote.Options{Metrics: remote.NewMetrics(reg)})
//	samples, err := client.Query(ctx, "sum(rate(requests_total[1m]))", now, 0)
//	client.Close()
//
// The other side is not trusted to be well. An answer is read as a stream and never as a whole: too many bytes (also after
// decompression), series, labels or levels end it. What is not a whole answer is an error, and so holds the size of what
// is scaled: one that was cut off, one with a series twice, one that says that a part of the data is missing (warnings of
// Thanos, isPartial of VictoriaMetrics), a page for people, a redirect to another server. Nothing is asked again within a
// tick, save on a connection that turns out to have been closed while it was idle; a server that says Retry-After is left
// alone for so long, at most a minute.
//
// Equal queries are asked once: those with the same text and the same time, which are those of one evaluation of a
// group, and of groups whose slots fall together. The second one waits for the answer to the first, or gets it from a
// memo of the last few times. Failures are shared too. Two groups whose slots differ share nothing: they ask for
// different times.
//
// Forward is for people and dashboards, who ask by flyball's own HTTP API: it passes a question of that API on and the answer
// back, within the same limits of size. They have turns of their own, so that a dashboard of fifty panels keeps no rule
// waiting, and what becomes of their questions is not counted as the rules' failures.
package remote
