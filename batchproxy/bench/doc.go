// Bench measures the batching proxy beside others, all in one run on one machine, and says which of its promises hold:
// `make bench-batchproxy`. It prints one table a measure, the gates under them, and exits with 3 where a gate is missed.
//
// Contenders are no proxy at all (direct), nginx, haproxy, Go's own httputil.ReverseProxy tuned as well as it can be, and
// flyball: without batching, with its timers of 2 and 5 ms, greedy and adaptive. In every round each load is put on one after the other
// (A B C A B C), each time after a warm-up of its own, so that a machine that is busier for a while is so for all of them. A figure is the
// median of the rounds; the least and the most stand below it. Where a gate is of two contenders, the median of what the one did to the other in each
// round stands beside it, which a machine whose speed drifts over minutes moves less.
//
// The scenes, in the order of scenes.go:
//   - closed: clients that ask again once they are answered, against a device that needs 8 ms for a call and 0.25 ms for each row
//     (examples/modelserver): requests/s and p50.
//   - poisson: independent clients, at the same random times for each contender: mean latency. Greedy and
//     adaptive, which are held to 1 % of each other, have five rounds more for each after the first.
//   - overload: 1.25 times what the contender can do, from clients that go away after a deadline: what is answered in time, as a part
//     of what it can do, and the memory of the proxy.
//   - pass: bodies of 1 kB that are sent on as they are: processor time a request, of the proxy's processes alone. One second differs from the
//     next by a half, so that there are three turns of a second for each second of the others.
//   - onnx: models on ONNX Runtime (examples/onnxserver), one that gains by batches and one that does not.
//   - splice: the Go benchmark of merging and splitting JSON.
//
// Closed loops are driven by wrk, which takes less of two cores than a generator in Go does; open loops by package loadgen,
// which checks each answer too. In the closed loops an answer counts where its status is below 400. Processor time is that of the clock of each
// process, to the nanosecond. Everything listens on ports of 127.0.0.1 that were free, and ends with the run.
//
// To read the code, begin at main.go (flags), then scenes.go (what is measured), contender.go (who), figures.go and gates.go (what is made of it).
package main
