package batchproxy

import (
	"net/http"
	"slices"
	"strings"
)

// Requests share a batch only where their headers agree, since any header may change the answer: Authorization,
// Accept-Language, a tenant, an API key. Left out are those that by their meaning do not: they describe the connection,
// the body, the client or the trace.

// matters reports whether a header in its canonical form may change the answer.
func matters(name string) bool {
	switch name {
	case "Accept-Encoding", "Baggage", "B3", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Type",
		"Date", "Dnt", "Expect", "Forwarded", "Inference-Header-Content-Length", "Keep-Alive", "Origin", "Pragma", "Priority", "Proxy-Authorization",
		"Proxy-Connection", "Referer", "Te", "Trailer", "Transfer-Encoding", "Traceparent", "Tracestate", "Uber-Trace-Id",
		"Upgrade", "User-Agent", "Via", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "X-Correlation-Id", "X-Real-Ip",
		"X-Request-Id", "X-Request-Timeout-Ms", "X-Slo-Ttft-Ms":
		return false
	}
	for _, prefix := range []string{"Sec-", "X-B3-", "X-Envoy-", "X-Flyball-", "X-Forwarded-", "X-Stainless-"} { // the last: OpenAI's clients about themselves
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

// hop reports whether a header is about one connection, or is the transport's to set.
func hop(name string) bool {
	switch name {
	case "Accept-Encoding", "Connection", "Content-Length", "Expect", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// appendHeaders appends the headers that matter to a lane's key. Values have no line feeds.
func appendHeaders(key []byte, header http.Header, ignore map[string]bool) []byte {
	names := make([]string, 0, 8)
	named := header["Connection"]
	for name := range header {
		if matters(name) && !ignore[name] && !listed(named, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range header[name] {
			key = append(key, name...)
			key = append(key, ':')
			key = append(key, value...)
			key = append(key, '\n')
		}
	}
	return key
}

// sharedHeaders are those that a batch carries for all its members.
func sharedHeaders(header http.Header, ignore map[string]bool) http.Header {
	out := make(http.Header, 4)
	named := header["Connection"]
	for name, values := range header {
		if matters(name) && !ignore[name] && !listed(named, name) {
			out[name] = values
		}
	}
	return out
}

// endToEnd copies to out the headers that are not about one connection.
func endToEnd(out, header http.Header) http.Header {
	named := header["Connection"]
	for name, values := range header {
		if !hop(name) && !listed(named, name) {
			out[name] = values
		}
	}
	return out
}

// deleteForwarded takes out what says where a request came from, as a client may write there what it likes.
func deleteForwarded(header http.Header) {
	for name := range header {
		if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
			delete(header, name)
		}
	}
}

// listed reports whether a Connection header names this one.
func listed(connection []string, name string) bool {
	for _, line := range connection {
		for field := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(field), name) {
				return true
			}
		}
	}
	return false
}
