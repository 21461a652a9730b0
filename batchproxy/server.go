package batchproxy

import (
	"log/slog"
	"net/http"
	"time"
)

// NewServer returns a server of a proxy, or of what chooses one, over HTTP/1 and HTTP/2, with TLS and without, with the limits
// that clients have: 5 s for the headers of a request, which are 64 KiB at most, a minute for all of it, and two minutes for a
// connection without one. What clients do wrong with their connections is logged at level debug.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: protocols, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		// No WriteTimeout: it would cut long answers and streams; the proxy has its own timeout for each model.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}

// closesAfter reports whether a connection is to end with the answer to this request. One that is sent in chunks may have had a
// Content-Length as well, which net/http ignores and forgets; whoever stands in front may have gone by that, and would take
// what follows for another request than the proxy does (RFC 9112, 6.1).
func closesAfter(r *http.Request) bool { return r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 }
