// Package loadgen sends requests to a model server at a planned pace and reports what a client would have seen: how
// fast the answers came, which were wrong, and which never came. `flyball bench` is a thin layer over it.
//
// It is an open-loop generator. The times of the requests are planned before the run, from a [Demand], and a request
// leaves at its time whatever the answers do. Its latency counts from that intended start, so a server that stalls is
// charged for every request that should have been answered meanwhile. (A closed loop, where each client waits for its
// answer before it asks again, sends less just when the server is slow, and so hides the stall: "coordinated
// omission".) What could not be sent, because [Options.MaxInflight] requests were waiting already, is counted and
// said, never sent later as if nothing had happened; how late the generator itself was is measured too.
//
// It checks the answers. Each request of the Open Inference Protocol carries an id of its own, which must come back, and
// the outputs must equal those which a server gave to the same request asked alone: an answer that reached the wrong
// client, or that was cut wrongly out of a batch, is counted as wrong even where its status is 200.
//
// To use it, say what to send and how fast, ask once for the expected answers, and run:
//
//	opts := loadgen.DefaultOptions()
//	opts.URL = "http://127.0.0.1:8090"
//	opts.Demand = loadgen.Constant(200, time.Minute)
//	opts.Requests, err = loadgen.TensorRequests("digits", "pixels", loadgen.V2, images)
//
//	direct := opts
//	direct.URL = "http://127.0.0.1:8000" // the model server itself
//	opts.Requests, err = loadgen.Reference(ctx, direct)
//
//	report, err := loadgen.Run(ctx, opts)
//	report.WriteText(os.Stdout)
//
// [ReadTrace] and [Trace.Demand] make the demand from a recorded one, sped up; [ReadPayloads] reads the bodies from a
// file. [Options.Progress] is called every second of the run, and [Options.OnReport] with the report of each interval
// of it, for example of each day of a trace. Cancel the context to stop early: the report of what was done still comes.
package loadgen
