package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/prometheus/exporter-toolkit/web"
)

// proxySocket is the name (FileDescriptorName=) of the systemd socket that is the batching proxy's.
const proxySocket = "batchproxy"

// listen takes the addresses of the page and of the proxy, from systemd where it hands them over, and reads how they are
// secured.
func (a *app) listen() (err error) {
	if a.webSecured, err = secured(a.opts.webSecured, "web.config.file"); err != nil {
		return err
	}
	if a.proxySecured, err = secured(a.opts.proxySecured, "batchproxy.web.config.file"); err != nil {
		return err
	}
	if a.kedaSecured, err = kedaSecured(a.opts.kedaSecured); err != nil {
		return err
	}
	if err := checkExternalURL(a.opts.externalURL); err != nil {
		return err
	}
	if a.opts.sockets {
		if err := a.takeSockets(); err != nil {
			return err
		}
	} else {
		for _, address := range a.opts.webAddresses() {
			l, err := listen(address, "web.listen-address")
			if err != nil {
				return err
			}
			a.onClose(l.Close)
			a.webListeners = append(a.webListeners, l)
		}
	}
	a.webListener = a.webListeners[0]
	if err := a.listenProxy(); err != nil {
		return err
	}
	return a.listenKeda()
}

func (a *app) listenProxy() (err error) {
	var idle error // why there is nothing for a proxy to do
	switch {
	case !a.opts.has(roleBatchproxy):
		idle = errors.New("--role has no batchproxy")
	case len(a.live.Load().Batchproxy.Models) == 0:
		idle = errors.New("the configuration has no batchproxy.models")
		if !a.opts.has(roleRules) && !a.opts.has(roleExporter) {
			return fmt.Errorf("--role=batchproxy has nothing to do: %w", idle)
		}
	}
	if idle != nil {
		if a.proxyListener != nil { // its clients would connect and wait
			return fmt.Errorf("systemd handed over a socket named %s, which nothing serves: %w", proxySocket, idle)
		}
		return nil
	}
	if a.proxyListener != nil {
		return nil
	}
	if a.proxyListener, err = listen(a.opts.proxyListen, "batchproxy.listen-address"); err != nil {
		return err
	}
	a.onClose(a.proxyListener.Close)
	return nil
}

// takeSockets takes the listeners that systemd hands over, by their names. The environment that tells of them is emptied,
// so that no replica takes them for its own.
func (a *app) takeSockets() error {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return fmt.Errorf("take the sockets of systemd (--web.systemd-socket): %w", err)
	}
	for name, sockets := range named {
		for _, l := range sockets {
			a.onClose(l.Close)
			switch {
			case name != proxySocket:
				a.webListeners = append(a.webListeners, l)
			case a.proxyListener == nil:
				a.proxyListener = l
			default:
				return fmt.Errorf("systemd handed over two sockets named %s: expected one", proxySocket)
			}
		}
	}
	if len(a.webListeners) == 0 {
		return errors.New("--web.systemd-socket: systemd handed over no stream socket for the page: start flyball by its .socket unit, or leave the flag out")
	}
	return nil
}

// listen opens a TCP listener; the error names the flag to change.
func listen(address, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: the address is in use: is flyball running already? --%s gives another", address, flag)
	}
	if detail, ok := errors.AsType[*net.OpError](err); ok && detail.Err != nil {
		err = detail.Err
	}
	return nil, fmt.Errorf("listen on %s (--%s): %w", address, flag, err)
}

// secured reads a web configuration file, so that what is wrong with it is said before anything starts; nil without one.
func secured(path, flag string) (*webConfig, error) {
	if path == "" {
		return nil, nil
	}
	c, err := readWebConfig(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return c, nil
}

// checkSecured sees that the web configuration files, which are read anew for each request, can still be.
func (a *app) checkSecured() error {
	for _, s := range []struct {
		flag, path string
		running    *webConfig
	}{
		{"web.config.file", a.opts.webSecured, a.webSecured},
		{"batchproxy.web.config.file", a.opts.proxySecured, a.proxySecured},
		{kedaSecuredFlag, a.opts.kedaSecured, a.kedaSecured},
	} {
		c, err := secured(s.path, s.flag)
		if err != nil {
			return err
		}
		if c.scheme() != s.running.scheme() {
			return fmt.Errorf("--%s: %s: it is now for %s, where %s is served: to change it takes a restart", s.flag, s.path, c.scheme(), s.running.scheme())
		}
	}
	_, err := kedaSecured(a.opts.kedaSecured)
	return err
}

func checkExternalURL(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return exitError{exitUsage, fmt.Errorf("--web.external-url is %q: expected a URL such as https://flyball.example.org/", text)}
	}
	return nil
}

// pageURL is where a person finds the page: an address that stands for all of the machine's is shown as localhost.
func (a *app) pageURL() string {
	if a.opts.externalURL != "" {
		return strings.TrimSuffix(a.opts.externalURL, "/") + "/"
	}
	return a.webSecured.scheme() + "://" + reachable(a.webListener.Addr()) + "/"
}

func reachable(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return address.String()
}

// servePage serves the page on all of its addresses until ctx ends. Each has a server of its own, because the toolkit
// puts its checks in front of the handler of the server that it is given.
func (a *app) servePage(ctx context.Context) error {
	handler := a.webHandler()
	var parts []part
	for _, l := range a.webListeners {
		server := a.webServer(handler)
		if a.webSecured != nil {
			openProbes(server)
		}
		parts = append(parts, part{l.Addr().String(), func(ctx context.Context) error {
			return serve(ctx, server, l, a.opts.webSecured, a.opts.log.With("component", "web"))
		}})
	}
	return runParts(ctx, parts, func() {})
}

// openProbes lets /-/healthy and /-/ready be asked without a password: what probes them, Kubernetes or a load balancer,
// has none, and they tell nothing but a word. BaseContext is called when the server begins to serve, after the toolkit has
// put its checks in place. A client certificate is asked for before any path is known, so of a probe too.
func openProbes(server *http.Server) {
	open := server.Handler
	server.BaseContext = func(net.Listener) context.Context {
		checked := server.Handler
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.URL.Path == healthyPath || r.URL.Path == readyPath) {
				open.ServeHTTP(w, r)
				return
			}
			checked.ServeHTTP(w, r)
		})
		return context.Background()
	}
}

// serveProxy runs the proxies until ctx ends and all that they admitted is answered. As soon as the last of them takes no more
// requests its server takes no more connections, and closes each that has no request or has had its answer: a client that
// keeps one is not told on it that flyball ends.
func (a *app) serveProxy(ctx context.Context, server *http.Server) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	grace, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	wg.Go(func() {
		select {
		case <-ctx.Done(): // no reload comes after it
		case <-grace.Done():
			return
		}
		select {
		case <-a.live.Load().proxy.Refusing():
		case <-grace.Done():
			return
		}
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := a.proxySlot.run(ctx)
	if ctx.Err() != nil {
		defer time.AfterFunc(lastWords, cancel).Stop()
		wg.Wait()
	}
	return err
}

// lastWords is how long answers may take to be on their way when all requests have been dealt with.
const lastWords = 2 * time.Second

// serve runs a server until ctx ends, and gives the requests in progress a little time. With a web configuration file the
// toolkit serves: TLS, passwords, headers, each read anew when the file or a certificate changes.
func serve(ctx context.Context, server *http.Server, l net.Listener, file string, log *slog.Logger) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := make(chan struct{})
	defer close(stop)
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-stop:
			return
		}
		// The proxy has answered all that it took by now; what is left are pages and scrapes.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	var err error
	if file == "" {
		err = server.Serve(l)
	} else {
		err = web.Serve(l, server, &web.FlagConfig{WebConfigFile: &file}, log)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
