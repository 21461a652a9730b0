//go:build unix

package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// vectors are bodies of one row of so many random floats each.
func vectors(protocol Protocol, requests, floats int) [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	bodies := make([][]byte, requests)
	for i := range bodies {
		var row []byte
		for j := range floats {
			if j > 0 {
				row = append(row, ',')
			}
			row = strconv.AppendFloat(row, random.NormFloat64(), 'f', 6, 64)
		}
		if protocol == (V1{}) {
			bodies[i] = fmt.Appendf(nil, `{"instances":[[%s]]}`, row)
		} else {
			bodies[i] = fmt.Appendf(nil, `{"id":"%d","inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32","data":[%s]}]}`, i, floats, row)
		}
	}
	return bodies
}

// BenchmarkSplice parses and merges 32 requests and splits their echo, as the proxy does and as encoding/json with
// []any would. That the echo is made is the model server's part, and not measured.
func BenchmarkSplice(b *testing.B) {
	for _, p := range []Protocol{V1{}, OIP{}} {
		for _, floats := range []int{64, 768} {
			bodies := vectors(p, 32, floats)
			b.Run(fmt.Sprintf("%s/32x%d/splice", p.Name(), floats), func(b *testing.B) {
				b.ReportAllocs()
				var echo, merged, own []byte
				for b.Loop() {
					requests := make([]*Request, len(bodies))
					for i, body := range bodies {
						r, err := p.Parse(Message{Body: body})
						if err != nil {
							b.Fatal(err)
						}
						requests[i] = r
					}
					merged = p.Merge(merged[:0], "batch", requests).Body
					if echo == nil {
						echo = answerOf(merged)
					}
					answer, err := p.Split(Message{Body: echo}, requests)
					if err != nil {
						b.Fatal(err)
					}
					for i := range requests {
						own = answer.Append(own[:0], i).Body
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/32, "ns/request")
			})
			if p == (V1{}) {
				b.Run(fmt.Sprintf("%s/32x%d/any", p.Name(), floats), func(b *testing.B) {
					b.ReportAllocs()
					var echo []byte
					for b.Loop() {
						echo = decodeAndEncode(b, bodies, echo)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/32, "ns/request")
				})
			}
		}
	}
}

func answerOf(merged []byte) []byte {
	if out := bytes.Replace(merged, []byte(`"instances":`), []byte(`"predictions":`), 1); len(out) != len(merged) {
		return out
	}
	return bytes.Replace(merged, []byte(`"inputs":`), []byte(`"outputs":`), 1)
}

// decodeAndEncode is what a batcher does that decodes: []any in, one body out, the answer in, N bodies out. It returns the answer,
// which it makes where there is none yet.
func decodeAndEncode(b *testing.B, bodies [][]byte, echo []byte) []byte {
	type body struct {
		Instances   []any `json:"instances,omitempty"`
		Predictions []any `json:"predictions,omitempty"`
	}
	var all body
	var counts []int
	for _, text := range bodies {
		var one body
		if err := json.Unmarshal(text, &one); err != nil {
			b.Fatal(err)
		}
		counts = append(counts, len(one.Instances))
		all.Instances = append(all.Instances, one.Instances...)
	}
	merged, err := json.Marshal(all)
	if err != nil {
		b.Fatal(err)
	}
	if echo == nil {
		echo = answerOf(merged)
	}
	var answer body
	if err := json.Unmarshal(echo, &answer); err != nil {
		b.Fatal(err)
	}
	at := 0
	for _, n := range counts {
		if _, err := json.Marshal(body{Predictions: answer.Predictions[at : at+n]}); err != nil {
			b.Fatal(err)
		}
		at += n
	}
	return echo
}

// BenchmarkMergeAndSplit merges 32 parsed requests of 768 floats, splits their echo and writes the 32 answers. ns/op
// and cpu-ns/op, the processor time, are of the whole batch.
func BenchmarkMergeAndSplit(b *testing.B) {
	raw := make([]byte, 768*4)
	for i := range raw {
		raw[i] = byte(i)
	}
	var tensors []Message
	for i := range 32 {
		tensors = append(tensors, withTensors(fmt.Sprintf(`{"id":"%d","inputs":[{"name":"x","shape":[1,768],"datatype":"FP32","parameters":{"binary_data_size":3072}}]}`, i), raw))
	}
	messages := func(bodies [][]byte) (out []Message) {
		for _, body := range bodies {
			out = append(out, Message{Body: body})
		}
		return out
	}
	for _, bench := range []struct {
		name     string
		protocol Protocol
		messages []Message
	}{
		{"v1", V1{}, messages(vectors(V1{}, 32, 768))},
		{"oip", OIP{}, messages(vectors(OIP{}, 32, 768))},
		{"binary", OIP{}, tensors},
	} {
		requests := make([]*Request, len(bench.messages))
		parse := func() {
			for i, m := range bench.messages {
				r, err := bench.protocol.Parse(m)
				if err != nil {
					b.Fatal(err)
				}
				requests[i] = r
			}
		}
		parse()
		b.Run(bench.name+"/parse", func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				parse()
			}
		})
		echo := served(b, bench.protocol, bench.protocol.Merge(nil, "batch", requests))
		b.Run(bench.name+"/merge and split", func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
			var merged, own []byte
			for b.Loop() {
				merged = bench.protocol.Merge(merged[:0], "batch", requests).Body
				answer, err := bench.protocol.Split(echo, requests)
				if err != nil {
					b.Fatal(err)
				}
				for i := range requests {
					own = answer.Append(own[:0], i).Body
				}
			}
		})
	}
}

// reportCPU begins to measure the processor time of an operation, which a busy machine changes less than the time it takes.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			b.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Nanoseconds())/float64(b.N), "cpu-ns/op") }
}

// BenchmarkGlance looks at one image of 224 x 224 pixels as a row, flat and nested as TensorFlow Serving's clients send it.
func BenchmarkGlance(b *testing.B) {
	for _, bench := range []struct {
		name     string
		protocol Protocol
		body     []byte
	}{
		{"oip", OIP{}, vectors(OIP{}, 1, 3*224*224)[0]},
		{"v1/flat", V1{}, vectors(V1{}, 1, 3*224*224)[0]},
		{"v1/nested", V1{}, nested(vectors(V1{}, 1, 3*224*224)[0], 224, 3)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(bench.body)))
			b.ReportAllocs()
			for b.Loop() {
				if r, err := Glance(bench.protocol, Message{Body: bench.body}, Unbroken{}); err != nil || r.Items != 1 {
					b.Fatal(r, err)
				}
			}
		})
	}
}

// nested is a V1 request of one flat row whose elements are put into arrays of `last` each, and those into arrays of `width`.
func nested(flat []byte, width, last int) []byte {
	row := bytes.TrimSuffix(bytes.TrimPrefix(flat, []byte(`{"instances":[[`)), []byte(`]]}`))
	out := []byte(`{"instances":[[`)
	for i, number := range bytes.Split(row, []byte(",")) {
		if i > 0 {
			out = append(out, ',')
		}
		if i%(width*last) == 0 {
			out = append(out, '[')
		}
		if i%last == 0 {
			out = append(out, '[')
		}
		out = append(out, number...)
		if i%last == last-1 {
			out = append(out, ']')
		}
		if i%(width*last) == width*last-1 {
			out = append(out, ']')
		}
	}
	return append(out, `]]}`...)
}

// BenchmarkToBinary has an image of 224x224x3 numbers, a megabyte of JSON, put into binary, and read there.
func BenchmarkToBinary(b *testing.B) {
	body := vectors(OIP{}, 1, 3*224*224)[0]
	var to []byte
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		c, ok := OIP{}.ToBinary(Message{Body: body}, 64)
		if !ok {
			b.Fatal("not in binary")
		}
		m, ok := c.Append(to[:0])
		if !ok {
			b.Fatal("not in binary")
		}
		if _, err := (OIP{}).Parse(m); err != nil {
			b.Fatal(err)
		}
		to = m.Body
	}
}
