package model

import "flyball/exporter"

// kind is how the series of one field become one.
type kind int

const (
	histogram kind = iota // counts and sums of equal buckets are added
	counter               // added
	amount                // a gauge of something that can be added: requests, bytes
	ratio                 // a gauge of which the largest counts: a ratio is never added up
)

// field is one thing that a model server may tell.
type field struct {
	name   string // of the configuration and of flyball_model_scrape_mapped
	family string // that it is published as
	label  string // of the family, beside model, server and engine; empty for none
	value  string // of that label; empty where the series has it
	kind   kind
	help   string // of the family
}

// fields are all of them, in the order of exporter.ModelFields. Where two are of one family, the help of the first counts.
var fields = []field{
	{
		"request_duration", "flyball_model_request_duration_seconds", "", "", histogram,
		"From a request's arrival at the engine to its last byte, as the engine says. An engine that only counts has the +Inf bucket alone: averages, no quantiles.",
	},
	{
		maxField, "flyball_model_request_duration_max_seconds", "", "", ratio,
		"The longest time of a request. Of flyball's proxy it is exact, over the last minute; of an engine with a summary, its quantile 1; of one with a native histogram, the upper bound of the highest bucket that grew in the last minute. Absent elsewhere: classic buckets and averages do not tell it.",
	},
	{
		"queue_duration", "flyball_model_queue_duration_seconds", "", "", histogram,
		"How long requests waited in the engine before they were computed.",
	},
	{
		"network_duration", "flyball_model_network_duration_seconds", "phase", "", histogram,
		"Time between flyball's proxy and the replicas, by phase: connect, a new connection; response, from a request's last byte to the answer's first, less what the replica says it took. No engine tells it of itself.",
	},
	{
		"ttft", "flyball_model_time_to_first_token_seconds", "", "", histogram,
		"From a request's arrival at the engine to its first token.",
	},
	{
		"itl", "flyball_model_inter_token_latency_seconds", "", "", histogram,
		"From one token of a request to the next, without the first.",
	},
	{
		"requests_total", "flyball_model_requests_total", "code", "", counter,
		"Requests that ended, by code: the HTTP status where the engine has it, 200 for its successes, error for its failures; no code where it tells neither.",
	},
	{"requests_failed", "flyball_model_requests_total", "code", "error", counter, ""},
	{
		"tokens_prompt", "flyball_model_tokens_total", "kind", "prompt", counter,
		"Tokens by kind: prompt as they came, generation as they were made, cached the part of the prompts that needed no computing.",
	},
	{"tokens_generation", "flyball_model_tokens_total", "kind", "generation", counter, ""},
	{"tokens_cached", "flyball_model_tokens_total", "kind", "cached", counter, ""},
	{
		"running", "flyball_model_requests_running", "", "", amount,
		"Requests that are being computed.",
	},
	{
		"waiting", "flyball_model_requests_waiting", "", "", amount,
		"Requests that wait in the engine.",
	},
	{
		"kv_cache", "flyball_model_kv_cache_utilization_ratio", "", "", ratio,
		"Share of the key-value cache that is in use; of several engines, the fullest.",
	},
	{
		"batch_size", "flyball_model_batch_size", "", "", histogram,
		"Requests in each batch. An engine that only counts has the +Inf bucket alone.",
	},
	{
		"batch_size_mean", "flyball_model_batch_size_mean", "", "", amount,
		"Mean requests in a batch: since the reading before where the engine counts batches, now where every step of the engine is a batch of all that runs.",
	},
	{
		"batch_capacity", "flyball_model_batch_capacity", "", "", amount,
		"The largest batch that the engine takes, in requests.",
	},
	{
		"iteration_tokens", "flyball_model_iteration_tokens", "", "", histogram,
		"Tokens in each step of the engine.",
	},
	{
		"preemptions", "flyball_model_preemptions_total", "", "", counter,
		"Requests that were put back from computing to waiting for want of cache.",
	},
	{
		"accelerator_duty_cycle", "flyball_model_accelerator_duty_cycle_ratio", "accelerator", "", ratio,
		"Share of time in which the accelerator computed, of one that is not read as a GPU; by a custom mapping only.",
	},
	{
		"accelerator_memory_used", "flyball_model_accelerator_memory_used_bytes", "accelerator", "", amount,
		"Memory of the accelerator in use; by a custom mapping only.",
	},
	{
		"accelerator_memory_total", "flyball_model_accelerator_memory_total_bytes", "accelerator", "", amount,
		"Memory of the accelerator; by a custom mapping only.",
	},
}

// maxField is the field that the histogram or the summary of another may stand in for.
const maxField = "request_duration_max"

// quantiles are the families that a summary's quantiles go to; they are of one process over a window of its own, and nothing
// can be computed from them.
var quantiles = map[string]family{
	"request_duration": {"flyball_model_request_duration_quantile_seconds", "Quantiles of the time of requests, as the engine computed them over a window of its own. They cannot be averaged.", "gauge", []string{"quantile"}},
	"queue_duration":   {"flyball_model_queue_duration_quantile_seconds", "Quantiles of the time that requests waited, as the engine computed them over a window of its own. They cannot be averaged.", "gauge", []string{"quantile"}},
	"ttft":             {"flyball_model_time_to_first_token_quantile_seconds", "Quantiles of the time to the first token, as the engine computed them over a window of its own. They cannot be averaged.", "gauge", []string{"quantile"}},
	"itl":              {"flyball_model_inter_token_latency_quantile_seconds", "Quantiles of the time between tokens, as the engine computed them over a window of its own. They cannot be averaged.", "gauge", []string{"quantile"}},
}

// family is one that the collector publishes.
type family struct {
	name, help, kind string
	labels           []string // of quantiles, those beside model, server, engine and version
}

// Names of what is published of a server, and of its process.
const (
	upFamily       = "flyball_model_up"
	scrapedFamily  = "flyball_model_last_scrape_timestamp_seconds"
	mappedFamily   = "flyball_model_scrape_mapped"
	unmappedFamily = "flyball_model_scrape_unmapped_families"
	infoFamily     = "flyball_model_info"
	gpuFamily      = "flyball_model_gpu_info"
	cpuFamily      = "flyball_model_process_cpu_seconds_total"
	memoryFamily   = "flyball_model_process_resident_memory_bytes"
)

// others are the families that no field stands for.
var others = []family{
	{upFamily, "Whether the model server's page could be read (1) or not (0): then it has no other series.", "gauge", []string{"server"}},
	{scrapedFamily, "When the model server's page was last read, in Unix time.", "gauge", []string{"server"}},
	{mappedFamily, "Whether a field that this engine may have was found on its page (1) or not (0).", "gauge", []string{"server", "engine", "field"}},
	{unmappedFamily, "Families of the page that stand for no field, those of the language's runtime apart. A new version that renames its metrics raises it.", "gauge", []string{"server"}},
	{infoFamily, "A model that the server has: 1.", "gauge", []string{"model", "server", "engine", "version", "precision", "framework"}},
	{gpuFamily, "A GPU that the model runs on: 1. Joins the model's series with those of flyball_gpu_* by uuid.", "gauge", []string{"model", "server", "uuid"}},
	{cpuFamily, "CPU time of the model server's process and its children; one that left its parent takes its time along.", "counter", []string{"model", "server", "engine"}},
	{memoryFamily, "Resident memory of the model server's process and its children; what they share counts for each.", "gauge", []string{"model", "server", "engine"}},
}

// fieldIndex returns the place of a field in fields; -1 where there is none of that name.
func fieldIndex(name string) int {
	for i, n := range exporter.ModelFields {
		if n == name {
			return i
		}
	}
	return -1
}
