package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestDrainUnderLoad ends one of two gateways while 50 clients keep their connections to it busy. New connections go to the other one
// as soon as the first says that it is not ready, as in a cluster. No client may notice.
func TestDrainUnderLoad(t *testing.T) {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"predictions":[1]}`)
	}))
	defer model.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "flyball.yml")
	write(t, file, "batchproxy: {drain: {delay: 2s, timeout: 20s}, models: [{name: m, upstreams: [{url: '"+model.URL+"'}], batch: {max_size: 1}}]}\n")
	type gateway struct {
		*child
		web, proxy string
	}
	var gateways [2]gateway
	for i := range gateways {
		g := gateway{web: freePort(t), proxy: freePort(t)}
		g.child = startChild(t, built.path("flyball"), "run", "--role=batchproxy", "--config.file="+file, "--web.listen-address="+g.web, "--batchproxy.listen-address="+g.proxy)
		eventually(t, "it is ready", func() bool { return status("http://"+g.web+"/-/ready") == http.StatusOK })
		gateways[i] = g
	}
	var to atomic.Int32 // the gateway that new connections go to
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var right [2]atomic.Int64
	for n := range 50 {
		clients.Go(func() {
			var at atomic.Int32
			c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				at.Store(to.Load())
				return new(net.Dialer).DialContext(ctx, network, gateways[at.Load()].proxy)
			}}}
			defer c.CloseIdleConnections()
			path := []string{"/v1/models/m:predict", "/v2/models/m/generate"}[n%2] // batched, and passed on
			for ctx.Err() == nil && !t.Failed() {
				response, err := c.Post("http://gateway"+path, "application/json", strings.NewReader(`{"instances":[1]}`))
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
				text, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("status %d, %v: %s", response.StatusCode, err, text)
					return
				}
				right[at.Load()].Add(1)
			}
		})
	}
	defer clients.Wait()
	defer cancel()
	eventually(t, "answers of the first", func() bool { return right[0].Load() > 500 || t.Failed() })
	gateways[0].signal(syscall.SIGTERM)
	eventually(t, "it is not ready", func() bool { return status("http://"+gateways[0].web+"/-/ready") == http.StatusServiceUnavailable })
	to.Store(1)
	if got := gateways[0].wait(); got != "" && got != "exit status 0" {
		t.Errorf("it ended with %s", got)
	}
	before := right[1].Load()
	eventually(t, "answers of the second", func() bool { return right[1].Load() > before+500 || t.Failed() })
	if out := gateways[0].out.String(); strings.Contains(out, "gave up") {
		t.Error("requests were given up")
	}
	t.Logf("%d answers of the first, %d of the second until it had ended", right[0].Load(), before)
}

// TestDrainWithoutDelay: a gateway that ends at once, as by default, closes connections that clients keep instead of refusing what
// they send on them.
func TestDrainWithoutDelay(t *testing.T) {
	asked, release := make(chan struct{}, 1), make(chan struct{})
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/v2/models/m/hold" {
			asked <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, `{}`)
	}))
	defer model.Close()
	dir, web, proxy := t.TempDir(), freePort(t), freePort(t)
	file := filepath.Join(dir, "flyball.yml")
	write(t, file, "batchproxy: {models: [{name: m, upstreams: [{url: '"+model.URL+"'}]}]}\n")
	c := startChild(t, built.path("flyball"), "run", "--role=batchproxy", "--config.file="+file, "--web.listen-address="+web, "--batchproxy.listen-address="+proxy)
	eventually(t, "it is ready", func() bool { return status("http://"+web+"/-/ready") == http.StatusOK })
	send := func(path string) (net.Conn, error) {
		conn, err := net.Dial("tcp", proxy)
		if err == nil {
			_, err = io.WriteString(conn, "POST /v2/models/m/"+path+" HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
		}
		return conn, err
	}
	kept, err := send("generate")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if _, err := kept.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	busy, err := send("hold")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	<-asked
	c.signal(syscall.SIGTERM)
	if text, err := io.ReadAll(kept); err != nil || len(text) > 0 {
		t.Errorf("a connection without a request got %q, %v", text, err)
	}
	if conn, err := net.Dial("tcp", proxy); err == nil {
		conn.Close()
		t.Error("it takes connections while it waits for the last requests")
	}
	close(release)
	if text, err := io.ReadAll(busy); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200 ") || !strings.Contains(string(text), "\r\nConnection: close\r\n") {
		t.Errorf("the request in progress got %q, %v", text, err)
	}
	if got := c.wait(); got != "" && got != "exit status 0" {
		t.Errorf("it ended with %s", got)
	}
}
