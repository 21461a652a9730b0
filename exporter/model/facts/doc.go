// Package facts reads what a model is rather than how it does: size, parameters, precision and architecture from its files,
// accuracy from the results of evaluators, names, versions and readiness from servers that speak the Open Inference
// Protocol (KServe v2).
//
//	f, err := facts.Read("/models/llama-3.3-70b")                 // a file, a folder or a pattern
//	results, err := facts.Accuracy("/eval/results/*.json")        // lm-evaluation-harness's or plain ones
//	models, err := facts.OIP(ctx, client, "http://localhost:8000") // GET /v2, /v2/models/NAME, /v2/models/NAME/ready
//
// Files are not loaded: of safetensors and GGUF the header is read, of ONNX the fields that tell the tensors' shapes, the
// weights are passed over. A header, a page or a results file has a size that is not exceeded, whatever it claims, and an
// error names the file and what was expected in it.
//
// A number that is not known is left out: weights that are packed several to a stored number, and formats whose shapes
// cannot be told without running code, have a size and no number of parameters.
//
// [Collector] is all of it as a collector of the exporter: it looks again at what changed on the disk and keeps the rest.
//
//	flyball_model_size_bytes                  what the files of the weights take on the disk
//	flyball_model_parameters                  numbers in the weights
//	flyball_model_info                        1, with version, precision and framework
//	flyball_model_ready                       1 or 0, as the server's readiness says
//	flyball_model_accuracy_ratio              by dataset and metric
//	flyball_model_accuracy_timestamp_seconds  when that was evaluated
//
// # A plain results file
//
// Whatever evaluates models can write YAML or JSON such as this; time is in RFC 3339 or seconds since 1970, and what stands at
// the top holds for each result that says nothing else:
//
//	model: llama-3.3-70b
//	time: 2026-11-20T08:14:02Z
//	results:
//	- {dataset: mmlu, metric: acc, value: 0.823}
//	- {dataset: gsm8k, metric: exact_match, value: 0.91, time: 2026-11-19T22:00:00Z}
package facts
