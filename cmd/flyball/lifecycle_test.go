package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLifecycleAPI(t *testing.T) {
	off := runApp(t, t.TempDir(), "", nil)
	on := runApp(t, t.TempDir(), "", func(o *runOptions) { o.lifecycle = true })
	before := on.live.Load()
	check := func(a *runningApp, method, path, wantCode, wantText string, header ...string) {
		t.Helper()
		code, response := send(client(nil, false), method, a.pageURL()+path, header...)
		var text []byte
		if response != nil {
			text, _ = io.ReadAll(response.Body)
		}
		if code != wantCode || strings.TrimSpace(string(text)) != wantText {
			t.Errorf("%s /%s %v: %s %q, want %s %q", method, path, header, code, text, wantCode, wantText)
		}
	}
	for _, path := range []string{"-/reload", "-/quit"} {
		check(off, "POST", path, "403", "Lifecycle API is not enabled.")
		check(off, "PUT", path, "403", "Lifecycle API is not enabled.")
		check(on, "GET", path, "405", "Only POST or PUT requests allowed.")
		check(on, "POST", path, "403", "cross-origin request detected from Sec-Fetch-Site header", "Sec-Fetch-Site", "cross-site")
		check(on, "POST", path, "403", "cross-origin request detected, and/or browser is out of date: Sec-Fetch-Site is missing, and Origin does not match Host",
			"Origin", "http://evil.example")
	}
	if at := on.live.Load(); at != before {
		t.Error("a request that was refused reloaded")
	}
	check(on, "POST", "-/reload", "200", "")
	if on.live.Load() == before {
		t.Error("POST did not reload")
	}
	check(on, "PUT", "-/reload", "200", "", "Sec-Fetch-Site", "same-origin")
	before = on.live.Load()
	path := on.opts.configFile
	write(t, path, "globl: {}\n")
	check(on, "POST", "-/reload", "500", "failed to reload config: "+path+`:1:1: unknown key "globl" (did you mean "global"?)`)
	if on.live.Load() != before {
		t.Error("a broken file was taken over")
	}
	check(on, "POST", "-/quit", "200", "Requesting termination... Goodbye!")
	on.eventually("it stops", func() bool { return on.phase.Load() == stopping })
	if err := on.stop(); err != nil {
		t.Error(err)
	}
	if off.phase.Load() != ready {
		t.Error("the other one stopped too")
	}
}

// TestNotify: a service manager is told when flyball is ready, reloads and stops.
func TestNotify(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no service manager listens on datagram sockets here")
	}
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	a := runApp(t, t.TempDir(), "", nil)
	if err := a.reload(t.Context()); err != nil {
		t.Errorf("reload: %v", err)
	}
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	var got []string
	for range 4 {
		buffer := make([]byte, 1024)
		n, err := l.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		state := string(buffer[:n])
		if at, rest, timed := strings.Cut(state, "\n"); timed { // which systemd 253 and later want of RELOADING
			usec, _ := strings.CutPrefix(at, "MONOTONIC_USEC=")
			if _, err := strconv.ParseInt(usec, 10, 64); err != nil {
				t.Errorf("the time of %s is %s", rest, at)
			}
			state = rest
		}
		got = append(got, state)
	}
	if diff := cmp.Diff([]string{"READY=1", "RELOADING=1", "READY=1", "STOPPING=1"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestProfiles(t *testing.T) {
	mux := http.NewServeMux()
	registerProfiles(mux)
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 9838} }
	for _, tt := range []struct {
		name         string
		local        net.Addr
		remote, host string
		header       string
		want         int
	}{
		{"loopback", tcp("127.0.0.1"), "127.0.0.1:5000", "127.0.0.1:9838", "", 200},
		{"by name", tcp("127.0.0.1"), "127.0.0.1:5000", "localhost:9838", "", 200},
		{"IPv6", tcp("::1"), "[::1]:5000", "[::1]:9838", "", 200},
		{"without a port", tcp("::1"), "[::1]:5000", "[::1]", "", 200},
		{"client elsewhere", tcp("127.0.0.1"), "10.0.0.7:5000", "127.0.0.1:9838", "", 403},
		{"at an address for others", tcp("10.0.0.1"), "127.0.0.1:5000", "127.0.0.1:9838", "", 403},
		{"this machine at its address for others", tcp("10.0.0.1"), "10.0.0.1:5000", "10.0.0.1:9838", "", 403},
		{"another name that resolves here", tcp("127.0.0.1"), "127.0.0.1:5000", "evil.example:9838", "", 403},
		{"a proxy on this machine", tcp("127.0.0.1"), "127.0.0.1:5000", "127.0.0.1:9838", "X-Forwarded-For", 403},
		{"a proxy by the standard", tcp("127.0.0.1"), "127.0.0.1:5000", "127.0.0.1:9838", "Forwarded", 403},
		{"a Unix socket", &net.UnixAddr{Name: "/run/flyball", Net: "unix"}, "@", "localhost", "", 403},
		{"no connection known", nil, "127.0.0.1:5000", "127.0.0.1:9838", "", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
				r := httptest.NewRequest("GET", path, nil)
				r.RemoteAddr, r.Host = tt.remote, tt.host
				if tt.local != nil {
					r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, tt.local))
				}
				if tt.header != "" {
					r.Header.Set(tt.header, "10.0.0.7")
				}
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, r)
				if w.Code != tt.want || tt.want == 403 && !strings.Contains(w.Body.String(), "this machine only") {
					t.Errorf("%s: %d %s", path, w.Code, w.Body)
				}
			}
		})
	}
	a := runApp(t, t.TempDir(), "", nil) // over a real connection
	if code, response := send(client(nil, false), "GET", a.pageURL()+"debug/pprof/goroutine?debug=1"); code != "200" {
		t.Errorf("%s %v", code, response)
	}
}

func TestExternalURL(t *testing.T) {
	a := runApp(t, t.TempDir(), "", func(o *runOptions) { o.externalURL = "https://flyball.example.org/x" })
	if got := a.pageURL(); got != "https://flyball.example.org/x/" {
		t.Errorf("the page is at %s", got)
	}
	for _, text := range []string{"flyball.example.org", "/x", "ftp://x/", "http://"} {
		_, err := newApp(&loaded{Config: DefaultConfig()}, &runOptions{log: slog.New(slog.DiscardHandler), roles: []string{roleRules}, externalURL: text})
		if _, wrong := errors.AsType[exitError](err); !wrong || !strings.Contains(err.Error(), "expected a URL such as") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
