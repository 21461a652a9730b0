package batchproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	prom "github.com/prometheus/common/model"
	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a DNS server on loopback, whose answers a test changes.
type nameServer struct {
	mu    sync.Mutex
	a     map[string][]string // by name, with the dot at its end
	srv   map[string][]dnsmessage.SRVResource
	broke bool // SERVFAIL
}

func (s *nameServer) set(change func(*nameServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *nameServer) answer(text []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var q dnsmessage.Message
	if err := q.Unpack(text); err != nil {
		return nil, err
	}
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, Authoritative: true, RecursionAvailable: true}, Questions: q.Questions}
	asked := q.Questions[0]
	name := asked.Name.String()
	header := dnsmessage.ResourceHeader{Name: asked.Name, Class: dnsmessage.ClassINET, TTL: 1}
	switch {
	case s.broke:
		out.RCode = dnsmessage.RCodeServerFailure
	case s.a[name] == nil && s.srv[name] == nil:
		out.RCode = dnsmessage.RCodeNameError
	case asked.Type == dnsmessage.TypeA:
		for _, ip := range s.a[name] {
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(ip).To4())}})
		}
	case asked.Type == dnsmessage.TypeSRV:
		for _, r := range s.srv[name] {
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: header, Body: &r})
		}
	}
	return out.Pack()
}

func (s *nameServer) resolver(t *testing.T) *net.Resolver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		text := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(text)
			if err != nil {
				return
			}
			if out, err := s.answer(text[:n]); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); served.Wait() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func TestDNS(t *testing.T) {
	s := &nameServer{a: map[string][]string{}, srv: map[string][]dnsmessage.SRVResource{}}
	resolver := s.resolver(t)
	srv := func(host string, port uint16) dnsmessage.SRVResource {
		return dnsmessage.SRVResource{Target: dnsmessage.MustNewName(host), Port: port}
	}
	for _, tt := range []struct {
		name string
		set  func(*nameServer)
		read func(context.Context, string) ([]string, error)
		ask  string
		want []string
		fail bool
	}{
		{"addresses", func(s *nameServer) { s.a["llama.ml."] = []string{"10.0.0.1", "10.0.0.2"} }, byAddress(resolver), "llama.ml.:8000", []string{"10.0.0.1:8000", "10.0.0.2:8000"}, false},
		{"an address", func(*nameServer) {}, byAddress(resolver), "[::1]:8000", []string{"[::1]:8000"}, false},
		{"no such name has none", func(*nameServer) {}, byAddress(resolver), "other.ml.:8000", []string{}, false},
		{"services", func(s *nameServer) {
			s.srv["_http._tcp.llama.ml."] = []dnsmessage.SRVResource{srv("a.ml.", 1), srv("b.ml.", 2)}
		}, byService(resolver), "_http._tcp.llama.ml.", []string{"a.ml:1", "b.ml:2"}, false},
		{"no such service", func(*nameServer) {}, byService(resolver), "_http._tcp.other.ml.", []string{}, false},
		{"a server that fails says nothing", func(s *nameServer) { s.broke = true }, byAddress(resolver), "llama.ml.:8000", nil, true},
		{"nor of services", func(*nameServer) {}, byService(resolver), "_http._tcp.llama.ml.", nil, true},
	} {
		s.set(tt.set)
		got, err := tt.read(t.Context(), tt.ask)
		slices.Sort(got)
		if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.fail {
			t.Errorf("%s: %v %s", tt.name, err, diff)
		}
	}
}

// underLoad has clients send tagged rows until the function returns, and faults each answer that is not its own.
func underLoad(t *testing.T, f *front, during func(answered *atomic.Int64)) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var answered atomic.Int64
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				row := c*1_000_000 + i
				got := f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, row))
				var out struct{ Predictions []int }
				if err := json.Unmarshal([]byte(got.body), &out); err != nil || got.code != 200 || !cmp.Equal(out.Predictions, []int{row}) {
					t.Errorf("row %d was answered %d %s %v", row, got.code, got.body, got.err)
					return
				}
				answered.Add(1)
			}
		})
	}
	during(&answered)
	stop()
	clients.Wait()
}

// TestFilesChangeUnderLoad: replicas come and go by a file, and files break, while no request is lost or crossed.
func TestFilesChangeUnderLoad(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		partial := filepath.Join(dir, "."+name+"~")
		if err := errors.Join(os.WriteFile(partial, []byte(text), 0o600), os.Rename(partial, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yml", "- targets: ["+a.address()+"]\n  labels: {zone: a}\n")
	f := start(t, oneModel(Upstream{File: filepath.Join(dir, "*.*"), Interval: prom.Duration(time.Millisecond)}), Options{})
	ready := func(n int) {
		t.Helper()
		until(t, fmt.Sprintf("%d ready", n), func() bool { return f.Models()[0].Ready == n })
	}
	<-f.Following()
	underLoad(t, f, func(answered *atomic.Int64) {
		until(t, "the first sends", func() bool { return len(a.seen()) > 3 })
		write("b.json", `[{"targets": ["`+b.address()+`"]}]`)
		ready(2)
		until(t, "the second sends", func() bool { return len(b.seen()) > 3 })
		write("a.yml", "- targets: [nonsense]\n") // keeps its last good list
		since := len(a.seen())
		until(t, "the first still sends", func() bool { return len(a.seen()) > since+3 })
		if err := os.Remove(filepath.Join(dir, "a.yml")); err != nil {
			t.Fatal(err)
		}
		ready(1)
		n, since := answered.Load(), len(a.seen())
		until(t, "the second sends on", func() bool { return answered.Load() > n+50 })
		if more := len(a.seen()) - since; more > 2 { // one may have been on its way
			t.Errorf("a replica whose file is gone was sent %d batches", more)
		}
	})
}

// TestDNSChangesUnderLoad: the name points elsewhere, while no request is lost or crossed; what a failing server says does not count.
func TestDNSChangesUnderLoad(t *testing.T) {
	s := &nameServer{srv: map[string][]dnsmessage.SRVResource{}, a: map[string][]string{"a.ml.": {"127.0.0.1"}, "b.ml.": {"127.0.0.1"}}}
	a, b := newModelServer(t), newModelServer(t)
	port := func(s *modelServer) uint16 { return uint16(s.Listener.Addr().(*net.TCPAddr).Port) }
	point := func(host string, at *modelServer) func(*nameServer) {
		return func(s *nameServer) {
			s.broke = false
			s.srv["_http._tcp.llama.ml."] = []dnsmessage.SRVResource{{Target: dnsmessage.MustNewName(host), Port: port(at)}}
		}
	}
	s.set(point("a.ml.", a))
	f := start(t, oneModel(Upstream{SRV: "_http._tcp.llama.ml.", Interval: prom.Duration(time.Millisecond)}), Options{Resolver: s.resolver(t)})
	<-f.Following()
	underLoad(t, f, func(answered *atomic.Int64) {
		until(t, "the first sends", func() bool { return len(a.seen()) > 3 })
		s.set(point("b.ml.", b))
		until(t, "the second sends", func() bool { return len(b.seen()) > 3 })
		s.set(func(s *nameServer) { s.broke = true })
		n := answered.Load()
		until(t, "the second sends on", func() bool { return answered.Load() > n+50 })
	})
}

func TestTargetsOfFiles(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"YAML", "- targets: [a:1, 'b:2']\n  labels: {x: y}\n- targets: ['[::1]:3']\n", "a:1 b:2 [::1]:3"},
		{"JSON", `[{"targets": ["a:1"], "labels": {"x": "y"}}]`, "a:1"},
		{"none", "[]", ""},
		{"half written", "", "not a list of {targets: [host:port]}: EOF"},
		{"unknown member", "- target: [a:1]", "not a list of {targets: [host:port]}: yaml: unmarshal errors:\n  line 1: field target not found in type batchproxy.targetGroup"},
		{"a URL", "- targets: ['http://a:1']", `[0].targets[0]: "http://a:1" is not host:port, as in llama.ml.svc:8000`},
		{"no port", "- targets: ['a']", `[0].targets[0]: "a" is not host:port, as in llama.ml.svc:8000`},
		{"port", "- targets: ['a:x']", `[0].targets[0]: "a:x": "x" is not the number of a port`},
	} {
		list, err := parseTargets([]byte(tt.text))
		got := strings.Join(list, " ")
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}
