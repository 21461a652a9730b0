// Package batchproxy stands between clients and model servers: it gathers inference requests into batches, sends them to
// the replicas that are ready, and gives every client exactly its own part of the answer. Clients see the model server's
// own protocol; what they gain is throughput, and what the operator gains are metrics of what clients saw.
//
// A [Proxy] is an http.Handler with a Run:
//
//	cfg := batchproxy.DefaultConfig()
//	m := batchproxy.DefaultModelConfig()
//	m.Name, m.Upstreams = "digits", []batchproxy.Upstream{{URL: "http://10.0.0.1:8000"}}
//	cfg.Models = append(cfg.Models, m)
//	p, err := batchproxy.New(cfg, batchproxy.Options{Logger: logger, Registerer: registry})
//	...
//	go batchproxy.NewServer(p, logger).Serve(listener)
//	err = p.Run(ctx) // until ctx ends, then until what was admitted is answered
//
// An upstream is a URL, a target of an actuator, a Service of Kubernetes, a name in DNS or files; of all but the first [Endpoints]
// say where their replicas are, for as long as Run runs: those of lists.go for names and files. One that leaves the list gets no more requests, and those that it has are finished.
//
// How a request goes through it, in the order of the files: route.go finds the model; infer.go reads the body and has
// package protocol check it, in the request's own goroutine, but for what unread.go knows to ride alone; binary.go puts its tensors in binary, where replicas know that; oversize.go sends one with more rows than a batch in chunks, and
// joins their answers; openai.go finds the model in the body where the path does not name it; terms.go reads the client's priority, tenant and deadline; headers.go and the protocol make the lane's key from all
// that the requests of a batch must have in common; model.go queues it; batcher.go, a pure state machine, says which
// requests leave together and when, by what it has learned, in the order of order.go, and admission.go which are not taken; picker.go chooses the replica, of those that health.go and outlier.go leave; batch.go sends, by wire.go, splits and deals with failures;
// answer.go writes. budget.go bounds retries, callers.go what is passed on at once. Requests that cannot share a batch, and everything else below a model's path, take passthrough.go.
//
// # What shares a batch
//
// What shares batches, and what is passed on to one replica as it is:
//
//	POST /v1/models/NAME[/versions/V]:predict             batched; columnar inputs are passed on
//	POST /v1/models/NAME[/versions/V]:classify, :regress  batched
//	POST /v2/models/NAME[/versions/V]/infer               batched, in JSON and in binary; sequences and shared memory are passed on
//	POST /v1/embeddings                                   batched, by the body's model
//	/v1/chat/completions, /v1/responses, others of /v1/   passed on, by the body's model, of which no more is read than it takes
//	/predictions/NAME                                     passed on (TorchServe)
//	/generate, /generate_stream                           passed on (TGI), where there is one model
//	GET /v1/models                                        passed on where there is one model; else the proxy lists the names
//	anything else below a model's path                    passed on
//
// A request by the body's model that names none goes to the only model, if there is one alone. Bodies that are compressed
// are answered 415 where they would have to be read. The proxy's own errors have the form of the path's protocol.
//
// # Language models
//
// A server of these makes its own batches, of tokens, so that requests for text are never held or merged. Their answers pass as they
// come: each piece of a stream is with the client before the next is read. It is measured by the bytes that have passed (stream.go),
// of which no more than a part of one event is kept: the time to the first piece of text, the times between pieces, and how the text
// ended. Tokens are those of `usage` (or of TGI's details) where the answer has it, which streams of OpenAI's protocol do with
// stream_options: {include_usage: true}; else the pieces are counted, and source="chunks" says so. Answers that are not
// streamed have their usage read from the last 4 KiB or more, and compressed ones are not measured.
//
// # When a batch leaves
//
// A replica takes S(n) = b + a·n for a batch of n rows: b for the batch, whatever its size, and a for each row. Sending
// two requests together instead of one after the other saves one b; waiting for the second costs the first that wait.
// So the batcher fits b and a to what it measures (service.go), and learns when requests come (profile.go). The hint that
// is worth most is an answer: clients that wait for their answers send the next request right after, so that for each
// lane it keeps how many rows come within a time of the last answered batch.
//
// When a replica is free and n rows are queued, at a time φ after the last answer, the phase rule (phase.go) weighs for
// several waits δ the m rows that are expected to come within it:
//
//	gain = n·S(n) + m·(S(n)+T(m)) - (n+m)·(δ+S(n+m))
//
// The first two terms are the time to the answer of all n+m requests where the n leave now: the m wait for their batch
// and then take T(m), that of what the rule will make of them. The last is their time where all leave together. The
// rule waits for the δ with the largest gain, if that is more than b/4, and asks again with every arrival.
//
// Of clients that wait for their answers (as many rows come in each cycle as were answered before it) one knows more: how
// many are still to come. For them the place in the cycle is told by how many are back and not by the clock, and the
// rule waits for the k rows that make the most rows a second, for no longer than those are worth:
//
//	(n+k) / (φ + δ + S(n+k))
//
// By the profile alone one or two late clients are left behind in most cycles where there are about as many clients as
// rows in a full batch, and a timer does better. Neither rule waits for less than what the replica does without ever waiting:
// c clients form two groups then, one of which comes back while the other is served, and a round of both takes 2·b + a·c.
// So where b is 0, or clients take longer to come back than b, nothing is held.
//
// Where a full batch gains less than 10 %, or a replica that is given as many requests as come answers sooner (contest.go), batching is off
// (tune.go). Then nothing is to be slower than without a proxy (unread.go): a
// replica is given as many requests at once as come, unless inflight, an SLO, priorities or tenants say otherwise, and one of more
// than 64 KiB of JSON is sent on unread, with what the proxy would have found wrong in it for the replica to find: a glance shows whether
// it has more rows than a batch may have, a priority, or is part of a sequence. So is a large request of a
// client that has had the model to itself for a while. One of more than 256 KiB is sent while it comes, all but its end, which
// follows after the glance; what may not go, or comes slowly, does not get its end (early.go). After 2,000 requests, then twice as many each time, batches of 1 and of 4 rows
// in turns try it again, each batch of 4 before two of 1, as the first may find the server at clearing up. While batching is on it is tried
// too: with the very first batches, which have 4 rows at most until then, as a model that gains nothing takes as many times as long for more;
// then after 32 batches (8, or a second of them, where the fit says that a full batch does not make twice as many rows a second), 64 and so
// on, and from 2,000 on only where the fit says that it gains little. Two trials one after the other
// end it. One that finds a gain of less than two does not see what a server does that has several requests at once: 32 requests, or all
// that wait, leave by themselves then, and no more is needed where a tenth more is answered in a second than full batches would by that trial, or where batches
// would do half as many again though more wait yet. Else, for 128 rows, or for eight times as many as are under way, batches and single requests take turns, and the way with the shorter time from
// arrival to answer stays; half of these are enough where one takes half as long again as the other. Where batching was off, a replica has as
// many batches at once in their turns as single requests were served at once, and there are no turns where as many full batches, by what the
// trial found, cannot be better.
//
// The idea of holding a batch for as long as the total latency gains is that of delayed batching in Clipper (NSDI 2017) and
// of deferred scheduling in Symphony (arXiv 2308.07470); that the profile is taken by the time since the last answer, and
// the two formulas, are of this package, derived beside them in phase.go and held to account in simulate_test.go.
//
// A replica has one batch at once. Whether it would do more with several (it has instances of the model, or workers, or a long way)
// is tried while full batches wait, and kept where it makes at least 5 % more rows a second (depth.go).
//
// A new configuration begins with what was learned of each model that has a replica in common with the one before (inherit.go); where
// all replicas are others, it is forgotten.
//
// # Who is first
//
// Requests leave by their virtual deadline: the arrival plus the budget of the class that X-Flyball-Priority names
// (critical 25 ms, high 50 ms, normal 100 ms, low 400 ms), or the client's own deadline less S(1) if that is sooner. So a class
// is ahead of another by the difference of their budgets, and nobody starves; one above normal is held by no timer, for no min_size and not
// for cost, and takes along those that are; without classes and deadlines it is the order
// of arrival. A client's deadline is the least of X-Flyball-Deadline-Ms, X-Request-Timeout-Ms and
// X-Envoy-Expected-Rq-Timeout-Ms, and counts where it is before the model's timeout. Triton's schedule policy says both in the
// parameters of an Open Inference request: a priority, of which 1 is the class with the least budget, 2 the next and all above their
// number the last, where no header names a class; and a timeout in microseconds, one more deadline. 0 is none. The replica is sent
// those of a request that goes alone; of several the most urgent priority and the longest timeout, where each has one: it would
// give up all of them with the first. Where queue.tenant_header is set,
// tenants share the rows that leave by their weights while there are more than a batch has, and the deadlines order the requests of
// each.
//
// Where a model has an SLO, or a client a deadline, a request that would be answered after it is not taken: by what waits
// before it, and what S(n) says of how long that takes. That is asked again when its batch leaves. One that finds a free
// replica and nobody waiting is always taken, so that a wrong estimate does not stay.
//
// # What clients and operators see of it
//
// Each answer that came out of a batch has headers: X-Flyball-Batch-Id, which the replica was sent where the protocol has a
// place for it, X-Flyball-Batch-Size in rows, and Server-Timing in milliseconds: queue, the wait to be sent; upstream, the
// replica's time for the batch; batch, from leaving the queue to the answer, with what was sent again. Answers that were passed
// on have upstream alone, up to their first byte. seen.go has them, and the access log's line for each request (accesslog.go):
// JSON, to a file or stdout, never a body, a query or a credential. A disk that is too slow for it costs lines, which are
// counted, and never time. With the log, a request without an X-Request-Id is given one, which the client is told.
//
// The longest time to an answer of the last minute is exact (maximum.go), and what the network takes is told where that can be told
// honestly: new connections, and answers of replicas that say how long they took themselves (network.go).
//
// Requests whose traceparent says that they are recorded leave their trace id as an exemplar on the histograms of their
// duration and of their wait.
//
// With a Tracer each request has a span (spans.go), which continues the client's trace and is recorded where that is; without one, where
// the tracer says so. Below it are queue, the wait to be sent; batch, from leaving the queue to the answer; and upstream, each
// call to a replica, which is told to go on from there. A batch of which one request is recorded is in that one's trace, whoever rides along.
// One of several is in none of theirs: it has a trace of its own, of which the span batch has links to the spans of its requests. In their
// traces batch has a link to it, and upstream is a copy with a link to the call. A replica is always told whether to record, so that it
// does not begin traces of its own. What is not batched has upstream alone, and queue where the model has a limit; calls to language models
// have the attributes gen_ai.* with the tokens. Spans have no body, query or header of a client's but its User-Agent.
//
// # JSON to clients, binary to replicas
//
// A tensor's numbers cost a server more to read from JSON than to compute with, where the model is small. Where replicas have the binary tensor
// extension in their metadata, and none that is well has it not, they get in binary what clients send as JSON (binary.go): the request becomes one
// of that form before it is queued, shares batches with those of clients that send binary, and is answered in JSON. Numbers become float64,
// correctly rounded, and then their datatype, as in servers. What cannot be so, or has a fault, stays as it is, and so does what a replica refuses: it is
// sent once more, as its client wrote it, from the budget of what is sent again where the replica failed, and counts twice in the series of batches and waits.
//
// # When things go wrong
//
//   - A request that the replica refuses (4xx) fails alone: its batch is cut in two until it is found.
//   - A replica that cannot be reached is left alone for a moment, and its requests wait or go to another, up to the
//     model's timeout, then 503. One that breaks off or answers 5xx costs one retry on another replica if there is one,
//     then 502. One that is too slow: 504.
//   - Some servers answer 500 to a request that is wrong: a batch that gets 500 twice is cut in two as well, and only the
//     request to blame gets 502. Such cuts and retries are at most a fifth of the calls.
//   - A replica that answers 429 or 503 with Retry-After is left alone for that time, where there is another, which gets the
//     batch.
//   - A replica that does worse than the others is ejected for a time, as is one that gives no answer while they do; one
//     request tries it after that. One that fails its health checks, where there are some, is sent nothing.
//   - An answer that cannot be split with certainty is not delivered: each request is sent again alone.
//   - A tenant whose requests spoil batches again and again goes alone for a while: solo.go.
//   - A full queue, or too many bytes held: 429 with Retry-After.
//   - A client whose deadline passes while a replica has its batch is answered 504 then, and the others get their answers. The call is
//     given up at the last deadline, where each of the batch has one, unless the model's cancel is drain.
//   - A tenant that has its share of the queue: 429. A request that would be answered too late: 503. One whose client's
//     deadline no replica can meet any more: 504. None of these costs a replica anything.
//   - What is not batched has no queue, unless the model has a limit, set or learned for each replica (limit.go): then a request waits
//     here while every replica has as many as it may, goes to the first that has room, and is refused where too many wait
//     (callers.go). X-Slo-Ttft-Ms says within what time the answer is to begin: it waits for no longer, and is refused where the calls
//     ahead of it take longer than that.
//   - A client that goes is taken out of the queue; a batch is cancelled when all its clients have gone, and a stream with its
//     client, unless the model's cancel is drain.
//
// TestFaults is the table of what must not go wrong, each test named after the fault that it excludes.
//
// Requests may be sent twice when a replica fails: inference is taken to be idempotent.
package batchproxy
