package model

import "strings"

// engine is what is known of one kind of model server: by which names its page is recognised, and where on it each field is.
type engine struct {
	name     string
	prefixes []string // of the names of its metrics, as normal makes them
	model    []string // labels with the model's name, the first that a series has counts
	version  string   // label with the model's version; empty for none
	ranks    []string // labels of processes that tell of the same requests: the largest counts, they are not added
	backend  string   // the engine whose metrics may stand on its page too, before its own
	parts    []string // labels of those whose ranks these are, which tell of different requests
	sources  []source
}

// source is one place where a field may be. Of those of one field the first that a page has counts.
type source struct {
	field  string
	metric string
	as     shape
	count  string            // with pair: the counter of what metric is the total of; with share: what metric is a share of
	match  map[string]string // labels that a series must have, with a value of those that | separates
	label  string            // the series' label whose value is that of the field's
	value  string            // of the field's label where no series has it
	scale  float64           // to the field's unit; 0 for 1
	needs  []string          // prefixes of which the page must have one, or the metric means something else
	reason string            // why not, where needs is not met
}

// shape is what a source is on the page.
type shape int

const (
	same       shape = iota // what the field is
	quantified              // a summary: its sum and count, and its quantiles by themselves
	pair                    // two counters, a total and what it is the total of: a histogram of which only +Inf is known
	share                   // two gauges, of which one is a share of the other
	growth                  // two counters: what metric grew by for each that count grew by, since the reading before
)

// engines are those that are known, in the order in which a page is compared with them.
var engines = []*engine{
	{
		name: "vllm", prefixes: []string{"vllm_"}, model: []string{"model_name"},
		sources: []source{
			{field: "request_duration", metric: "vllm:e2e_request_latency_seconds"},
			{field: "queue_duration", metric: "vllm:request_queue_time_seconds"},
			{field: "ttft", metric: "vllm:time_to_first_token_seconds"},
			{field: "itl", metric: "vllm:inter_token_latency_seconds"},
			{field: "itl", metric: "vllm:time_per_output_token_seconds"}, // until 0.11
			{field: "requests_total", metric: "vllm:request_success_total", value: "200"},
			{field: "tokens_prompt", metric: "vllm:prompt_tokens_total"},
			{field: "tokens_generation", metric: "vllm:generation_tokens_total"},
			{field: "tokens_cached", metric: "vllm:prompt_tokens_cached_total"},
			{field: "tokens_cached", metric: "vllm:prefix_cache_hits_total"},
			{field: "running", metric: "vllm:num_requests_running"},
			{field: "waiting", metric: "vllm:num_requests_waiting"},
			{field: "kv_cache", metric: "vllm:kv_cache_usage_perc"},  // 0 to 1, whatever the name says
			{field: "kv_cache", metric: "vllm:gpu_cache_usage_perc"}, // until 0.10
			{field: "batch_size_mean", metric: "vllm:num_requests_running"},
			{field: "iteration_tokens", metric: "vllm:iteration_tokens_total"},
			{field: "preemptions", metric: "vllm:num_preemptions_total"},
		},
	},
	{
		name: "sglang", prefixes: []string{"sglang_"}, model: []string{"model_name"},
		ranks: []string{"tp_rank", "pp_rank", "moe_ep_rank"}, parts: []string{"dp_rank"},
		sources: []source{
			{field: "request_duration", metric: "sglang:e2e_request_latency_seconds"},
			{field: "queue_duration", metric: "sglang:queue_time_seconds"},
			{field: "ttft", metric: "sglang:time_to_first_token_seconds"},
			{field: "itl", metric: "sglang:inter_token_latency_seconds"},
			{field: "itl", metric: "sglang:time_per_output_token_seconds"}, // until 0.4
			{field: "requests_total", metric: "sglang:num_requests_total"},
			{field: "tokens_prompt", metric: "sglang:prompt_tokens_total"},
			{field: "tokens_generation", metric: "sglang:generation_tokens_total"},
			{field: "tokens_cached", metric: "sglang:cached_tokens_total"},
			// With priorities there are series for each, and one without of all together.
			{field: "running", metric: "sglang:num_running_reqs", match: map[string]string{"priority": ""}},
			{field: "waiting", metric: "sglang:num_queue_reqs", match: map[string]string{"priority": ""}},
			{field: "kv_cache", metric: "sglang:token_usage"},
			{field: "batch_size_mean", metric: "sglang:num_running_reqs", match: map[string]string{"priority": ""}},
			{field: "preemptions", metric: "sglang:num_retracted_requests_total"},
		},
	},
	{
		name: "tgi", prefixes: []string{"tgi_"},
		sources: []source{
			{field: "request_duration", metric: "tgi_request_duration"},
			{field: "queue_duration", metric: "tgi_request_queue_duration"},
			// itl has none: tgi_request_mean_time_per_token_duration has the prefill in it.
			{field: "requests_total", metric: "tgi_request_success", value: "200"},
			{field: "requests_failed", metric: "tgi_request_failure"},
			{field: "tokens_prompt", metric: "tgi_request_input_length_sum"},
			{field: "tokens_generation", metric: "tgi_request_generated_tokens_sum"},
			{field: "running", metric: "tgi_batch_current_size"},
			{field: "waiting", metric: "tgi_queue_size"},
			// What the running requests may come to need, which is what new ones are refused by.
			{field: "kv_cache", metric: "tgi_batch_current_max_tokens", as: share, count: "tgi_batch_max_total_tokens"},
			{field: "batch_size", metric: "tgi_batch_next_size"},
		},
	},
	{
		name: "triton", prefixes: []string{"nv_inference_", "nv_trt_llm_", "nv_model_", "nv_cache_", "nv_gpu_", "nv_cpu_", "nv_energy_"},
		model: []string{"model", "model_name"}, version: "version", backend: "vllm",
		sources: []source{
			// What the cache answered is in it.
			{field: "request_duration", metric: "nv_inference_request_duration_us", as: pair, count: "nv_inference_request_success", scale: 1e-6},
			{field: "request_duration", metric: "nv_inference_request_summary_us", as: quantified, scale: 1e-6},
			{field: "queue_duration", metric: "nv_inference_queue_duration_us", as: pair, count: "nv_inference_request_success", scale: 1e-6},
			{field: "queue_duration", metric: "nv_inference_queue_summary_us", as: quantified, scale: 1e-6},
			{
				field: "ttft", metric: "nv_inference_first_response_histogram_ms", scale: 1e-3, needs: []string{"nv_trt_llm_", "vllm_"},
				reason: "it is the time to the first chunk of an answer, which is a token only where an LLM streams",
			},
			{field: "ttft", metric: "vllm:time_to_first_token_seconds"}, // of the backend for vLLM, on the same page
			{field: "itl", metric: "vllm:inter_token_latency_seconds"},
			{field: "itl", metric: "vllm:time_per_output_token_seconds"},
			{field: "requests_total", metric: "nv_inference_request_success", value: "200"},
			{field: "requests_failed", metric: "nv_inference_request_failure"},
			{field: "tokens_prompt", metric: "vllm:prompt_tokens_total"},
			{field: "tokens_generation", metric: "vllm:generation_tokens_total"},
			{field: "running", metric: "nv_trt_llm_request_metrics", match: map[string]string{"request_type": "scheduled"}},
			{field: "running", metric: "vllm:num_requests_running"},
			{field: "waiting", metric: "nv_trt_llm_request_metrics", match: map[string]string{"request_type": "waiting"}},
			{field: "waiting", metric: "nv_inference_pending_request_count"},
			{field: "kv_cache", metric: "nv_trt_llm_kv_cache_block_metrics", match: map[string]string{"kv_cache_block_type": "fraction"}},
			{field: "kv_cache", metric: "vllm:gpu_cache_usage_perc"},
			{field: "batch_size", metric: "nv_inference_count", as: pair, count: "nv_inference_exec_count"},
			{field: "batch_size_mean", metric: "nv_inference_count", as: growth, count: "nv_inference_exec_count"},
			{field: "batch_capacity", metric: "nv_trt_llm_request_metrics", match: map[string]string{"request_type": "max"}},
		},
	},
	{
		name: "trtllm", prefixes: []string{"trtllm_"}, model: []string{"model_name"}, ranks: []string{"rank"},
		sources: []source{
			{field: "request_duration", metric: "trtllm_e2e_request_latency_seconds"},
			{field: "queue_duration", metric: "trtllm_request_queue_time_seconds"},
			{field: "ttft", metric: "trtllm_time_to_first_token_seconds"},
			// itl has none: trtllm_time_per_output_token_seconds is the mean of each request.
			{field: "requests_total", metric: "trtllm_request_success_total", value: "200"},
			{field: "requests_failed", metric: "trtllm_request_error_total", label: "http_code"},
			{field: "tokens_prompt", metric: "trtllm_prompt_tokens_total"},
			{field: "tokens_generation", metric: "trtllm_generation_tokens_total"},
			{field: "tokens_cached", metric: "trtllm_prompt_cached_tokens_total"},
			{field: "running", metric: "trtllm_num_requests_running"},
			{field: "waiting", metric: "trtllm_num_requests_waiting"},
			{field: "kv_cache", metric: "trtllm_kv_cache_utilization"},
			{field: "batch_size_mean", metric: "trtllm_scheduled_batch_size"},
			{field: "batch_size_mean", metric: "trtllm_num_requests_running"},
			{field: "batch_capacity", metric: "trtllm_max_batch_size_runtime"},
			{field: "batch_capacity", metric: "trtllm_max_batch_size_static"},
		},
	},
	{
		name: "torchserve", prefixes: []string{"ts_inference_", "ts_queue_"}, model: []string{"model_name", "ModelName"}, version: "model_version",
		sources: []source{
			{field: "request_duration", metric: "ts_inference_latency_microseconds", as: pair, count: "ts_inference_requests_total", scale: 1e-6},
			{field: "queue_duration", metric: "ts_queue_latency_microseconds", as: pair, count: "ts_inference_requests_total", scale: 1e-6},
			// QueueTime is that of the last request, a sample of one; Requests2XX and the like are of the host, not of a model.
			{field: "requests_total", metric: "ts_inference_requests_total"},
		},
	},
	{
		name: "ovms", prefixes: []string{"ovms_"}, model: []string{"name"}, version: "version",
		sources: []source{
			{field: "request_duration", metric: "ovms_request_time_us", scale: 1e-6},
			{field: "queue_duration", metric: "ovms_wait_for_infer_req_time_us", scale: 1e-6},
			{field: "requests_total", metric: "ovms_requests_success", value: "200", match: map[string]string{"method": "ModelInfer|ModelInferStream|Predict|Unary|Stream"}},
			{field: "requests_failed", metric: "ovms_requests_fail", match: map[string]string{"method": "ModelInfer|ModelInferStream|Predict|Unary|Stream"}},
			{field: "running", metric: "ovms_infer_req_active"}, // ovms_current_requests is of those that wait too
		},
	},
	{
		name: "flyball", prefixes: []string{"flyball_batchproxy_", "modelserver_"}, model: []string{"model"},
		sources: []source{
			{field: "request_duration", metric: "flyball_batchproxy_request_duration_seconds"},
			{field: "request_duration", metric: "modelserver_request_duration_seconds"},
			{field: maxField, metric: "flyball_batchproxy_request_duration_max_seconds"},
			{field: "queue_duration", metric: "flyball_batchproxy_queue_duration_seconds"},
			{field: "network_duration", metric: "flyball_batchproxy_network_duration_seconds", label: "phase"},
			{field: "ttft", metric: "flyball_batchproxy_time_to_first_token_seconds"},
			{field: "itl", metric: "flyball_batchproxy_inter_token_latency_seconds"},
			{field: "requests_total", metric: "flyball_batchproxy_requests_total", label: "code"},
			{field: "requests_total", metric: "modelserver_requests_total", label: "code"},
			{field: "tokens_prompt", metric: "flyball_batchproxy_tokens_total", match: map[string]string{"kind": "prompt"}},
			{field: "tokens_generation", metric: "flyball_batchproxy_tokens_total", match: map[string]string{"kind": "completion"}},
			{field: "tokens_cached", metric: "flyball_batchproxy_tokens_total", match: map[string]string{"kind": "cached"}},
			{field: "running", metric: "flyball_batchproxy_requests_running"},
			{field: "running", metric: "modelserver_requests_running"},
			{field: "waiting", metric: "flyball_batchproxy_requests_waiting"},
			{field: "waiting", metric: "modelserver_requests_waiting"},
			{field: "batch_size", metric: "flyball_batchproxy_batch_size"},
			{field: "batch_size", metric: "modelserver_batch_size"},
		},
	},
	{
		// The protocol has no metrics; those of KServe's Python server are of its steps, none of a whole request.
		name: "oip", prefixes: []string{"request_predict_seconds", "request_preprocess_seconds"}, model: []string{"model_name"},
		sources: []source{
			{field: "requests_total", metric: "request_predict_seconds_count"},
		},
	},
	{name: "custom"}, // what the configuration says
}

// engineNamed returns an engine; nil where there is none of that name.
func engineNamed(name string) *engine {
	for _, e := range engines {
		if e.name == name {
			return e
		}
	}
	return nil
}

// engineOf returns the engine that has a metric of this name, as normal makes it; nil where none has.
func engineOf(name string) *engine {
	for _, e := range engines {
		for _, prefix := range e.prefixes {
			if strings.HasPrefix(name, prefix) {
				return e
			}
		}
	}
	return nil
}

// The ends of the names of a histogram's and a summary's samples.
const (
	bucketEnd = "_bucket"
	sumEnd    = "_sum"
	countEnd  = "_count"
)

// normal makes one of the names that versions and clients give the same metric: with : or _, with the prefix that Ray adds or
// without, with _total or without.
func normal(name string) string {
	name = strings.ReplaceAll(name, ":", "_")
	if rest, found := strings.CutPrefix(name, "ray_"); found && engineOf(rest) != nil {
		name = rest
	}
	end := ""
	for _, e := range []string{bucketEnd, sumEnd, countEnd} {
		if rest, found := strings.CutSuffix(name, e); found {
			name, end = rest, e
			break
		}
	}
	return strings.TrimSuffix(name, "_total") + end
}

// runtimes are the beginnings of the names that clients of Prometheus and runtimes add by themselves; they are of no engine.
var runtimes = []string{"go_", "process_", "python_", "promhttp_", "scrape_", "jvm_", "http_"}
