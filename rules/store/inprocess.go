package store

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// inProcessDomain is the end of the host names under which handlers of this process are scraped. Nothing is ever found
// under .invalid by a resolver (RFC 2606), so no target of a user's is shadowed.
const inProcessDomain = ".in-process.invalid"

// inProcess serves the metrics of this process to the scraper over connections in memory: no port is opened for it, and
// it needs neither certificate nor password, whatever the web server asks of others.
type inProcess struct {
	server *http.Server
	conns  *pipes
	tcp    net.Dialer
	wg     sync.WaitGroup

	// handlers by host; replaced as a whole when a Scrape is applied.
	handlers atomic.Pointer[map[string]http.Handler]
}

func newInProcess(log *slog.Logger) *inProcess {
	p := &inProcess{conns: newPipes()}
	p.handlers.Store(&map[string]http.Handler{})
	p.server = &http.Server{
		Handler: p, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// The only client is the scraper, which has its own timeout; this is for a connection that it forgot.
		ReadHeaderTimeout: time.Minute, IdleTimeout: 10 * time.Minute,
	}
	return p
}

// inProcessHost is the host under which the job of that name is scraped. Host names have no upper case, and a dial
// would take a colon for a port, so such names are written in a way that keeps them apart.
func inProcessHost(job string) string {
	var b strings.Builder
	for _, c := range []byte(job) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789abcdef"
		b.WriteString("-" + string(hex[c>>4]) + string(hex[c&15]))
	}
	return b.String() + inProcessDomain
}

// start serves until stop, which waits.
func (p *inProcess) start() {
	p.wg.Go(func() { _ = p.server.Serve(p.conns) }) // the error is the end
}

func (p *inProcess) stop() {
	_ = p.conns.Close()
	// The scraper has ended by now, and with it its connections: there is nothing to wait for, unless one hangs.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		_ = p.server.Close()
	}
	p.wg.Wait()
}

// ServeHTTP implements http.Handler.
func (p *inProcess) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := (*p.handlers.Load())[r.Host]
	if h == nil {
		http.NotFound(w, r)
		return
	}
	h.ServeHTTP(w, r)
}

// dial is how the scraper connects: in memory to this process, by TCP to all others.
func (p *inProcess) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(address); err == nil && strings.HasSuffix(host, inProcessDomain) {
		return p.conns.dial(ctx)
	}
	return p.tcp.DialContext(ctx, network, address)
}

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

var errPipesClosed = errors.New("the store does not run")

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, errors.Join(errPipesClosed, ours.Close(), theirs.Close())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), ours.Close(), theirs.Close())
	}
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, io.EOF
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (p *pipes) Addr() net.Addr { return inMemory{} }

type inMemory struct{}

func (inMemory) Network() string { return "pipe" }
func (inMemory) String() string  { return "in-process" }
