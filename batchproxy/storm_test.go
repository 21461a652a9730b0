package batchproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	prom "github.com/prometheus/common/model"
)

// testStorm has many clients send tagged rows while some of them go, some send what the replicas refuse, replicas
// come, go and fail, and the configuration is changed. Whoever stays gets exactly its own rows, or an error that says whose
// fault it was.
func testStorm(t *testing.T) {
	var trouble atomic.Uint64
	pool := new(list)
	var servers []*modelServer
	for range 4 {
		s := newModelServer(t)
		s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
			switch n := trouble.Add(1); {
			case n%97 == 0:
				panic(http.ErrAbortHandler)
			case n%53 == 0:
				http.Error(w, "broken", 500)
				return true
			case n%31 == 0 && c.header.Get("X-Solo") == "": // no rows for a batch; clients alone send the header
				fmt.Fprint(w, `{"predictions":[]}`)
				return true
			}
			return false
		}
		servers = append(servers, s)
	}
	addresses := func(n uint64) []string {
		all := []string{refusing(t)} // one is always wrong
		for i, s := range servers {
			if n>>i&1 == 1 {
				all = append(all, s.address())
			}
		}
		return all
	}
	pool.current = addresses(15)
	cfg := oneModel(Upstream{Target: "pool"})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 6, MaxWait: prom.Duration(time.Millisecond), IgnoreHeaders: []string{"X-Solo"}}
	cfg.Models[0].Inflight = 2
	registry := prometheus.NewRegistry()
	f := start(t, cfg, Options{Endpoints: pool, Registerer: registry})

	ctx, cancel := context.WithCancel(context.Background())
	var changing sync.WaitGroup
	proxies, stops := []*Proxy{f.Proxy}, []func() error{f.stop}
	reload := func(size int) {
		next := cfg
		next.Models = slices.Clone(cfg.Models)
		next.Models[0].Batch.MaxSize = size
		p, err := New(next, Options{Endpoints: pool, Registerer: registry})
		if err != nil {
			t.Error(err)
			return
		}
		stops = append(stops, running(p))
		<-p.Following()
		last := len(proxies) - 1
		proxies[last].Replace(p)
		if last > 0 { // the first is the front's, which ends it
			changing.Go(func() {
				if err := stops[last](); err != nil {
					t.Error(err)
				}
			})
		}
		proxies = append(proxies, p)
	}
	changing.Go(func() {
		random := rand.New(rand.NewPCG(1, 1))
		for n := 0; ctx.Err() == nil; n++ {
			if n%20 == 19 {
				reload(3 + random.IntN(6))
			}
			pool.set(addresses(1 + random.Uint64N(15))...)
			if random.IntN(4) == 0 {
				drain, done := context.WithTimeout(ctx, 5*time.Millisecond)
				_ = proxies[len(proxies)-1].Drain(drain, "pool", servers[random.IntN(4)].address())
				done()
			}
			time.Sleep(time.Duration(random.IntN(5)) * time.Millisecond) // a pace, not a wait for something
		}
	})

	const clients, each = 24, 60
	var codes [600]atomic.Int32
	var left atomic.Int32
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 2))
			for i := range each {
				rows := make([]string, 1+random.IntN(8))
				for j := range rows {
					rows[j] = fmt.Sprintf("%d/%d/%d", client, i, j)
				}
				poison := random.IntN(20) == 0
				if poison {
					rows[0] += "poison"
				}
				to, stop := context.WithCancel(context.Background())
				if random.IntN(10) == 0 {
					to, stop = context.WithTimeout(to, time.Duration(random.IntN(3000))*time.Microsecond)
				}
				oip := random.IntN(2) == 0
				got := sendRows(to, f, rows, oip, fmt.Sprintf("%d-%d", client, i))
				if got.err != nil && to.Err() != nil {
					left.Add(1)
					stop()
					continue
				}
				stop()
				if got.err != nil {
					t.Errorf("client %d: %v", client, got.err)
					continue
				}
				codes[got.code].Add(1)
				switch {
				case got.code == 200 && !poison:
					checkRows(t, got, rows, oip, fmt.Sprintf("%d-%d", client, i))
				case got.code == 400 && poison, got.code == 502:
				default:
					t.Errorf("client %d, poison %v: got %d %s", client, poison, got.code, got.body)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	changing.Wait()
	for _, p := range proxies {
		until(t, "all is over", func() bool { s := p.Models()[0]; return s.Queued == 0 && s.Running == 0 })
		until(t, "all bytes are given back", func() bool { return p.buffers.held.Load() == 0 })
	}
	for _, stop := range stops[1:] {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"requests_running", "requests_waiting"} {
		for _, protocol := range []string{"v1", "oip"} {
			series := `flyball_batchproxy_` + name + `{class="normal",model="m",protocol="` + protocol + `"}`
			until(t, series+" is 0 after all is over", func() bool { n, _ := value(t, registry, series); return n == 0 })
		}
	}
	if len(proxies) < 3 {
		t.Errorf("%d configurations: there were no reloads", len(proxies))
	}
	if ok := codes[200].Load(); ok < clients*each/2 {
		t.Errorf("only %d of %d were answered", ok, clients*each)
	}
	if codes[400].Load() == 0 || left.Load() == 0 {
		t.Errorf("%d refused and %d gone: the storm was none", codes[400].Load(), left.Load())
	}
	t.Logf("200: %d, 400: %d, 502: %d, gone: %d, %d configurations", codes[200].Load(), codes[400].Load(), codes[502].Load(), left.Load(), len(proxies))
}

// running runs a proxy, and returns what ends it with the error of its Run.
func running(p *Proxy) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return sync.OnceValue(func() error { cancel(); return <-ended })
}

func sendRows(ctx context.Context, f *front, rows []string, oip bool, id string) reply {
	if !oip {
		body, _ := json.Marshal(map[string]any{"instances": rows})
		return f.send(ctx, "POST", "/v1/models/m:predict", string(body), "X-Solo", "1")
	}
	body, _ := json.Marshal(map[string]any{"id": id, "inputs": []any{
		map[string]any{"name": "x", "datatype": "BYTES", "shape": []int{len(rows)}, "data": rows},
	}})
	return f.send(ctx, "POST", "/v2/models/m/infer", string(body), "X-Solo", "1")
}

func checkRows(t *testing.T, got reply, rows []string, oip bool, id string) {
	t.Helper()
	var out struct {
		ID          string   `json:"id"`
		Predictions []string `json:"predictions"`
		Outputs     []struct {
			Shape []int    `json:"shape"`
			Data  []string `json:"data"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal([]byte(got.body), &out); err != nil {
		t.Errorf("%s: %v", got.body, err)
		return
	}
	if oip {
		if out.ID != id || len(out.Outputs) != 1 || !slices.Equal(out.Outputs[0].Shape, []int{len(rows)}) || !slices.Equal(out.Outputs[0].Data, rows) {
			t.Errorf("%s: sent %v with id %s", got.body, rows, id)
		}
		return
	}
	if !slices.Equal(out.Predictions, rows) {
		t.Errorf("%s: sent %v", got.body, rows)
	}
}
