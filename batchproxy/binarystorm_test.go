package batchproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	prom "github.com/prometheus/common/model"
)

// testBinaryStorm has many clients send tagged rows as JSON while some of them go and replicas refuse some in binary, break off or fail, so that requests
// ride in binary and as JSON at the same time. Whoever stays gets exactly its own rows, to the last bit, or the word that the replicas failed.
func testBinaryStorm(t *testing.T) {
	var trouble atomic.Uint64
	few := regexp.MustCompile(`"shape":\[[12],`)
	var upstreams []Upstream
	for range 2 {
		s := newTensorServer(t, knowsBinary)
		s.refuse = func(inBinary bool, text string) int {
			switch n := trouble.Add(1); {
			case n%37 == 0:
				panic(http.ErrAbortHandler)
			case n%41 == 0:
				return 500
			case n%11 == 0 && inBinary, n%3 > 0 && inBinary && few.MatchString(text): // of which one is by itself at last
				return 400
			}
			return 0
		}
		upstreams = append(upstreams, Upstream{URL: s.URL})
	}
	cfg := oneModel(upstreams...)
	cfg.Models[0].BinaryTensors, cfg.Models[0].Inflight = binaryAlways, 2
	cfg.Models[0].Batch = BatchConfig{MaxSize: 6, MaxWait: prom.Duration(time.Millisecond)}
	f := start(t, cfg, Options{})
	const clients, each = 12, 40
	var right, failed, gone atomic.Int32
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 3))
			for i := range each {
				rows := 1 + random.IntN(3)
				tags, data := make([]json.Number, rows), make([]string, rows)
				for j := range rows {
					tags[j] = json.Number(strconv.FormatInt(1<<60+int64(client)<<32+int64(i)<<8+int64(j), 10))
					data[j] = string(tags[j]) + strings.Repeat(",1", binaryFrom-1)
				}
				ctx, stop := context.WithCancel(t.Context())
				if random.IntN(8) == 0 {
					ctx, stop = context.WithTimeout(ctx, time.Duration(random.IntN(3000))*time.Microsecond)
				}
				got := f.send(ctx, http.MethodPost, inferPath, fmt.Sprintf(`{"inputs":[{"name":"x","shape":[%d,%d],"datatype":"INT64","data":[%s]}]}`,
					rows, binaryFrom, strings.Join(data, ",")))
				left := ctx.Err() != nil
				stop()
				var out struct {
					Outputs []struct{ Data []json.Number }
				}
				switch {
				case got.err != nil && left:
					gone.Add(1)
				case got.code == http.StatusBadGateway:
					failed.Add(1)
				case got.code != http.StatusOK || json.Unmarshal([]byte(got.body), &out) != nil || len(out.Outputs) != 1 || len(out.Outputs[0].Data) != rows*binaryFrom:
					t.Errorf("%d %.200s %v", got.code, got.body, got.err)
				default:
					right.Add(1)
					for j, tag := range tags {
						if own := out.Outputs[0].Data[j*binaryFrom]; own != tag {
							t.Errorf("row %d is %s, sent %s", j, own, tag)
						}
					}
				}
			}
		})
	}
	all.Wait()
	until(t, "all is over, and all bytes are given back", func() bool {
		s := f.Models()[0]
		return s.Queued+s.Running == 0 && f.buffers.held.Load() == 0
	})
	inBinary, refused := testutil.ToFloat64(f.metrics.binary), testutil.ToFloat64(f.metrics.binaryRefused)
	if right.Load() < clients*each/2 || gone.Load() == 0 || inBinary < 10 || refused == 0 {
		t.Errorf("%d right, %d failed, %d gone, %v in binary, %v refused: the storm was none", right.Load(), failed.Load(), gone.Load(), inBinary, refused)
	}
	t.Logf("%d right, %d failed, %d gone, %v in binary, %v refused", right.Load(), failed.Load(), gone.Load(), inBinary, refused)
}
