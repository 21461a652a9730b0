package protocol

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// served answers a message as a server that echoes rows: instances as predictions, inputs as outputs, input as data.
func served(t testing.TB, p Protocol, m Message) Message {
	t.Helper()
	switch p.(type) {
	case OIP:
		body := bytes.Replace(m.Body, []byte(`"inputs":`), []byte(`"outputs":`), 1)
		out := Message{Body: body}
		if m.Header > 0 {
			out.Header = m.Header + 1
		}
		return out
	case OpenAI:
		r, err := p.Parse(m)
		if err != nil {
			t.Fatal(err)
		}
		var data []string
		for i := range r.Items {
			data = append(data, fmt.Sprintf(`{"index":%d,"embedding":%s}`, i, r.Chunks(1).skip(i).Next().parts[0].raw))
		}
		return Message{Body: fmt.Appendf(nil, `{"data":[%s],"usage":{"prompt_tokens":%d}}`, strings.Join(data, ","), r.Items)}
	case Examples:
		return Message{Body: bytes.Replace(m.Body, []byte(`"examples":`), []byte(`"results":`), 1)}
	default:
		return Message{Body: bytes.Replace(m.Body, []byte(`"instances":`), []byte(`"predictions":`), 1)}
	}
}

// skip leaves out chunks.
func (c *Chunks) skip(n int) *Chunks {
	for range n {
		c.Next()
	}
	return c
}

// TestChunksJoined cuts requests into chunks of every size, has each answered by itself or as a batch, and wants the answer
// to be the same as to the whole.
func TestChunksJoined(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    Protocol
		m    Message
	}{
		{"v1 numbers", V1{}, Message{Body: []byte(`{"instances":[1,-0 , 1e400,9007199254740993,5],"a":1}`)}},
		{"v1 anything", V1{}, Message{Body: []byte(`{"instances":[ "a,\"]" ,{"b":[1,2]} , [[],{}],null,"" ]}`)}},
		{"examples", Examples{}, Message{Body: []byte(`{"examples":[{"a":1},{"a":2},{"a":3}]}`)}},
		{"oip flat", OIP{}, Message{Body: []byte(`{"id":"i","inputs":[{"name":"x","shape":[4,2],"datatype":"INT64","data":[1,2, 3,4,5,6,7,8]}]}`)}},
		{"oip nested", OIP{}, Message{Body: []byte(`{"id":"i","inputs":[{"name":"x","shape":[3,2],"datatype":"INT64","data":[[1,2],[3,4] ,[5,6]]},{"name":"s","shape":[3],"datatype":"BYTES","data":["a,","b","c"]}]}`)}},
		{"oip binary", OIP{}, withTensors(`{"id":"i","inputs":[{"name":"x","shape":[3,2],"datatype":"FP32","parameters":{"binary_data_size":24}},{"name":"s","shape":[3],"datatype":"BYTES","parameters":{"binary_data_size":18}},{"name":"j","shape":[3],"datatype":"INT8","data":[1,2,3]}]}`,
			fp32(1, 2, 3, 4, 5, 6), texts("abc", "", "def"))},
		{"openai texts", OpenAI{}, Message{Body: []byte(`{"model":"m","input":["a", "b,\"" ,"c","d"]}`)}},
		{"openai tokens", OpenAI{}, Message{Body: []byte(`{"model":"m","input":[[1,2],[3] , [4,5,6]]}`)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whole, err := tt.p.Parse(tt.m)
			if err != nil {
				t.Fatal(err)
			}
			for most := 1; most <= whole.Items+1; most++ {
				join := NewJoin(tt.p, whole)
				chunks := whole.Chunks(most)
				rows := 0
				for chunk := chunks.Next(); chunk != nil; chunk = chunks.Next() {
					if chunk.Items > most || !bytes.Equal(chunk.Key, whole.Key) {
						t.Fatalf("a chunk of %d rows with the key %s", chunk.Items, chunk.Key)
					}
					rows += chunk.Items
					merged := tt.p.Merge(nil, "b", []*Request{chunk})
					if again, err := tt.p.Parse(merged); err != nil || again.Items != chunk.Items {
						t.Fatalf("chunk %s is no request of %d rows: %v", merged.Body, chunk.Items, err)
					}
					if err := join.Add(served(t, tt.p, merged), chunk, false); err != nil {
						t.Fatal(err)
					}
				}
				if rows != whole.Items {
					t.Errorf("%d rows in chunks of %d, want %d", rows, most, whole.Items)
				}
				want, err := tt.p.Split(served(t, tt.p, tt.p.Merge(nil, "b", []*Request{whole})), []*Request{whole})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(compact(want.Append(nil, 0)), compact(join.Append(nil))); diff != "" {
					t.Errorf("chunks of %d: %s", most, diff)
				}
			}
		})
	}
}

// compact is a message without the spaces in its JSON.
func compact(m Message) Message {
	text := bytes.ReplaceAll(m.text(), []byte(" "), nil)
	if m.Header > 0 {
		m.Body, m.Header = append(text[:len(text):len(text)], m.Body[m.Header:]...), len(text)
		return m
	}
	m.Body = text
	return m
}

// TestAnswersThatDoNotJoin are answers to chunks that are not the parts of one answer.
func TestAnswersThatDoNotJoin(t *testing.T) {
	out := func(name, datatype, shape, data string) string {
		return `{"outputs":[{"name":"` + name + `","datatype":"` + datatype + `","shape":` + shape + `,"data":` + data + `}]}`
	}
	whole := parse(t, OIP{}, `{"inputs":[{"name":"x","shape":[4],"datatype":"FP32","data":[1,2,3,4]}]}`)[0]
	first := out("y", "FP32", "[2,1]", "[1,2]")
	for _, tt := range []struct{ name, second, want string }{
		{"good", out("y", "FP32", "[2,1]", "[3,4]"), ""},
		{"another name", out("z", "FP32", "[2,1]", "[3,4]"), "differ"},
		{"another datatype", out("y", "FP64", "[2,1]", "[3,4]"), "differ"},
		{"another shape", out("y", "FP32", "[2]", "[3,4]"), "differ"},
		{"nested", out("y", "FP32", "[2,1]", "[[3],[4]]"), "differ"},
		{"one output more", `{"outputs":[{"name":"y","datatype":"FP32","shape":[2,1],"data":[3,4]},{"name":"y","datatype":"FP32","shape":[2,1],"data":[3,4]}]}`, "not the same members"},
		{"a row too few", out("y", "FP32", "[1,1]", "[3]"), "shape is [1,1] where the batch has 2 rows"},
		{"an error", `{"error":"x"}`, "no outputs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			join, chunks := NewJoin(OIP{}, whole), whole.Chunks(2)
			if err := join.Add(Message{Body: []byte(first)}, chunks.Next(), false); err != nil {
				t.Fatal(err)
			}
			err := join.Add(Message{Body: []byte(tt.second)}, chunks.Next(), true)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(join.Append(nil).Body), out("y", "FP32", "[4,1]", "[1,2,3,4]"); got != want || !join.Estimated() {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if n := join.Size(); n < len(first) || n > 2*len(first) {
				t.Errorf("%d bytes are held", n)
			}
		})
	}
}
