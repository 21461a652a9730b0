package batchproxy

import (
	"log"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// NewServer returns a server of a proxy, or of what chooses one, over HTTP/1 and HTTP/2, with TLS and without, with the limits
// that clients have: 5 s for the headers of a request, which are 64 KiB at most, a minute for all of it, and two minutes for a
// connection without one. What clients do wrong with their connections is logged at level debug, that no more can be taken as a warning.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: protocols, ErrorLog: log.New(&serverLog{logger: logger}, "", 0),
		// No WriteTimeout: it would cut long answers and streams; the proxy has its own timeout for each model.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}

// serverLog has what net/http says of connections.
type serverLog struct {
	logger *slog.Logger
	next   atomic.Int64 // when it may be told again that none can be taken, in seconds
}

// notTaken begins what net/http says each second at most while the process has no file descriptor left.
const notTaken = "http: Accept error: "

// Write implements io.Writer.
func (l *serverLog) Write(p []byte) (int, error) {
	text := strings.TrimSuffix(string(p), "\n")
	why, found := strings.CutPrefix(text, notTaken)
	if now := time.Now().Unix(); found && now >= l.next.Load() {
		l.next.Store(now + 60)
		l.logger.Warn("no more connections can be taken; see ulimit -n", "err", why)
	} else {
		l.logger.Debug(text)
	}
	return len(p), nil
}

// closesAfter reports whether a connection is to end with the answer to this request. One that is sent in chunks may have had a
// Content-Length as well, which net/http ignores and forgets; whoever stands in front may have gone by that, and would take
// what follows for another request than the proxy does (RFC 9112, 6.1).
func closesAfter(r *http.Request) bool { return r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 }
