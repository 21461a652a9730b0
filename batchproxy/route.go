package batchproxy

import (
	"strings"

	"flyball/batchproxy/protocol"
)

// route is what a request's path addresses.
type route struct {
	model    string            // empty where the body says it
	label    string            // the protocol in metrics
	protocol protocol.Protocol // of a POST that may be batched, nil where none may
	only     bool              // neither the path nor the body names a model: it is for the only one
}

// parseRoute reads a path below /v1/models/, /v2/models/ or /predictions/, or another one of OpenAI's below /v1/.
func parseRoute(path string) (route, bool) {
	if rest, ok := strings.CutPrefix(path, "/v1/models/"); ok {
		name, tail := cutName(rest)
		to := route{model: name, label: "v1"}
		switch version(tail, ":") {
		case ":predict":
			to.protocol = protocol.V1{}
		case ":classify", ":regress":
			to.protocol = protocol.Examples{}
		}
		return to, name != ""
	}
	if rest, ok := strings.CutPrefix(path, "/v2/models/"); ok {
		name, tail := cutName(rest)
		to := route{model: name, label: "oip"}
		if version(tail, "/") == "/infer" {
			to.protocol = protocol.OIP{}
		}
		return to, name != ""
	}
	if rest, ok := strings.CutPrefix(path, "/predictions/"); ok { // TorchServe; its bodies are whatever the model takes
		name, _ := cutName(rest)
		return route{model: name, label: "torchserve"}, name != ""
	}
	if rest, ok := strings.CutPrefix(path, "/v1/"); ok {
		to := route{label: "openai"}
		if rest == "embeddings" {
			to.protocol = protocol.OpenAI{}
		}
		return to, rest != ""
	}
	if path == "/generate" || path == "/generate_stream" {
		return route{label: "tgi", only: true}, true
	}
	return route{}, false
}

func cutName(rest string) (name, tail string) {
	if i := strings.IndexAny(rest, "/:"); i >= 0 {
		return rest[:i], rest[i:]
	}
	return rest, ""
}

// version is what follows /versions/V, or a label, up to the separator; the tail itself if neither is there.
func version(tail, separator string) string {
	for _, prefix := range []string{"/versions/", "/labels/"} {
		if rest, ok := strings.CutPrefix(tail, prefix); ok {
			if i := strings.Index(rest, separator); i > 0 {
				return rest[i:]
			}
		}
	}
	return tail
}

// clean reports whether a path has no segment that another server could read as a step to somewhere else.
func clean(path string) bool {
	return !strings.Contains(path, "//") && !strings.Contains(path+"/", "/../") && !strings.Contains(path+"/", "/./") &&
		!strings.Contains(path, `\`)
}

// closest is the known name most like this one, empty where none is within two edits.
func closest(name string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(name, k); d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance between two names.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
