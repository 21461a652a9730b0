package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// FuzzBinary takes requests in binary that share a key, lets an upstream echo the batch, and wants each to get its own bytes
// back. Their JSON is separated by line feeds, and each one's tensors are the next bytes of tail.
func FuzzBinary(f *testing.F) {
	f.Add(`{"id":"1","inputs":[{"name":"x","shape":[1,2],"datatype":"INT16","parameters":{"binary_data_size":4}}]}`+"\n"+
		`{"inputs":[{"parameters":{"binary_data_size":8},"name":"x","datatype":"INT16","shape":[2,2]}]}`, []byte("abcdABCDEFGH"), uint8(1))
	f.Add(`{"inputs":[{"name":"s","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":9}},{"name":"j","shape":[2],"datatype":"INT8","data":[1,-0]}]}`,
		[]byte("\x01\x00\x00\x00a\x00\x00\x00\x00"), uint8(1))
	f.Add(`{"inputs":[{"name":"s","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":4}}]}`, []byte("\xff\xff\xff\xff"), uint8(3))
	f.Fuzz(func(t *testing.T, text string, tail []byte, most uint8) {
		var batch []*Request
		for line := range strings.SplitSeq(text, "\n") {
			size := 0
			if jsontext.Value(line).IsValid() { // as many bytes as it says, so that something is right now and then
				for _, word := range strings.Split(line, `"binary_data_size":`)[1:] {
					n := 0
					_, _ = fmt.Sscan(word, &n)
					size += max(n, 0)
				}
			}
			size = min(size, len(tail))
			r, err := OIP{}.Parse(withTensors(line, tail[:size]))
			tail = tail[size:]
			if err == nil && len(line) > 0 && (len(batch) == 0 || bytes.Equal(batch[0].Key, r.Key)) {
				batch = append(batch, r)
			}
		}
		if len(batch) == 0 {
			return
		}
		merged := OIP{}.Merge(nil, "batch", batch)
		if whole, err := (OIP{}).Parse(merged); err != nil || whole.Items != items(batch) || !bytes.Equal(whole.Key, batch[0].Key) {
			t.Fatalf("merged is not a request like those that it is made of: %v, %q", err, merged.Body)
		}
		check := func(of *Request, m Message) {
			t.Helper()
			m.Body = bytes.Replace(m.Body, []byte(`"outputs":`), []byte(`"inputs":`), 1)
			if m.Header > 0 {
				m.Header--
			}
			got, err := OIP{}.Parse(m)
			if err != nil || got.Items != of.Items || !bytes.Equal(got.id, of.id) || !bytes.Equal(got.Key, of.Key) {
				t.Fatalf("answer %q: %v", m.Body, err)
			}
			for i := range of.parts {
				if got.parts[i].width != 0 && !bytes.Equal(got.parts[i].raw, of.parts[i].raw) {
					t.Fatalf("answer holds %q, want %q", got.parts[i].raw, of.parts[i].raw)
				}
			}
		}
		if bytes.Contains(merged.text(), []byte(`"outputs"`)) {
			return // the echo would have two
		}
		answer, err := OIP{}.Split(served(t, OIP{}, merged), batch)
		if err != nil {
			if strings.Contains(err.Error(), "has an element for each") || strings.Contains(err.Error(), "rows without elements") {
				return
			}
			t.Fatalf("%v: %q", err, merged.Body)
		}
		for i, r := range batch {
			check(r, answer.Append(nil, i))
		}
		join, chunks := NewJoin(OIP{}, batch[0]), batch[0].Chunks(int(most)+1)
		for chunk := chunks.Next(); chunk != nil; chunk = chunks.Next() {
			if err := join.Add(served(t, OIP{}, OIP{}.Merge(nil, "b", []*Request{chunk})), chunk, false); err != nil {
				if strings.Contains(err.Error(), "has an element for each") {
					return
				}
				t.Fatalf("join: %v", err)
			}
		}
		check(batch[0], join.Append(nil))
	})
}

// FuzzOpenAI takes embeddings requests separated by line feeds, merges those that share a key, has their rows answered in the
// reverse order, and wants each request to get its own, and the tokens to add up.
func FuzzOpenAI(f *testing.F) {
	f.Add(`{"model":"m","input":"a"}`+"\n"+`{"input":["b","c\\\""],"model":"m"}`, int64(10))
	f.Add(`{"model":"m","input":[1,2]}`+"\n"+`{"input":[[3],[4,5]],"model":"m"}`, int64(5))
	f.Add(`{"model":"m","input":["a"]],"x":[[]}`+"\n"+`{"input":[],"input":1}`, int64(1<<62))
	f.Fuzz(func(t *testing.T, text string, used int64) {
		if used < 0 {
			return
		}
		var batch []*Request
		for line := range strings.SplitSeq(text, "\n") {
			r, err := OpenAI{}.Parse(Message{Body: []byte(line)})
			if err == nil && (len(batch) == 0 || bytes.Equal(batch[0].Key, r.Key)) {
				batch = append(batch, r)
			}
		}
		if len(batch) == 0 {
			return
		}
		merged := OpenAI{}.Merge(nil, "", batch)
		whole, err := OpenAI{}.Parse(merged)
		if err != nil || whole.Items != items(batch) || !bytes.Equal(whole.Key, batch[0].Key) {
			t.Fatalf("merged is not a request like those that it is made of: %v, %s", err, merged.Body)
		}
		rows := func(r *Request) (out []string) {
			chunks := r.Chunks(1)
			for c := chunks.Next(); c != nil; c = chunks.Next() {
				out = append(out, string(c.parts[0].raw))
			}
			return out
		}
		var data []string
		for i, row := range rows(whole) {
			data = append([]string{fmt.Sprintf(`{"embedding":%s,"index":%d}`, row, i)}, data...)
		}
		answer, err := OpenAI{}.Split(Message{Body: fmt.Appendf(nil, `{"usage":{"prompt_tokens":%d},"data":[%s]}`, used, strings.Join(data, ","))}, batch)
		if err != nil {
			t.Fatalf("%v: %s", err, merged.Body)
		}
		var sum int64
		for i, r := range batch {
			var want []string
			for j, row := range rows(r) {
				want = append(want, fmt.Sprintf(`{"embedding":%s,"index":%d}`, row, j))
			}
			var tokens int64
			own := string(answer.Append(nil, i).Body)
			if _, err := fmt.Sscanf(own, `{"usage":{"prompt_tokens":%d}`, &tokens); err != nil || tokens < 0 {
				t.Fatalf("%s: %v", own, err)
			}
			sum += tokens
			if w := fmt.Sprintf(`{"usage":{"prompt_tokens":%d},"data":[%s]}`, tokens, strings.Join(want, ",")); own != w {
				t.Fatalf("got  %s\nwant %s", own, w)
			}
		}
		if sum != used {
			t.Fatalf("the shares of %d are %d together", used, sum)
		}
	})
}

// FuzzExamples is FuzzV1 for classify and regress.
func FuzzExamples(f *testing.F) {
	f.Add(`{"examples":[{"a":1},{"b":-0}],"context":{}}` + "\n" + `{"context":{},"examples":[{}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		roundTrip(t, Examples{}, text, func(merged []byte) []byte {
			return bytes.Replace(merged, []byte(`"examples":`), []byte(`"results":`), 1)
		}, func(answer []byte) *Request {
			r, err := Examples{}.Parse(Message{Body: bytes.Replace(answer, []byte(`"results":`), []byte(`"examples":`), 1)})
			if err != nil {
				t.Fatalf("%s: %v", answer, err)
			}
			return r
		})
	})
}

// FuzzModel checks what is found of a beginning against jsontext, which reads the whole.
func FuzzModel(f *testing.F) {
	f.Add(`{"a":{"model":"x"},"b":["model"],"model":"y","z":1}`, uint16(30))
	f.Add(`{"\u006dodel":"\u00e9","model":1}`, uint16(3))
	f.Fuzz(func(t *testing.T, text string, cut uint16) {
		beginning, err := Model([]byte(text[:min(int(cut), len(text))]), true)
		if !jsontext.Value(text).IsValid() || strings.TrimLeft(text, " \n\r\t")[0] != '{' {
			return
		}
		d := jsontext.NewDecoder(strings.NewReader(text))
		want, found, other := "", false, false
		if _, err := d.ReadToken(); err != nil {
			t.Fatal(err)
		}
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				t.Fatal(err)
			}
			is := name.String() == "model"
			value, err := d.ReadValue()
			if err != nil {
				t.Fatal(err)
			}
			if is {
				found = true
				if other = value.Kind() != '"'; !other {
					want = unquote(value)
				}
				break
			}
		}
		got, wholeErr := Model([]byte(text), false)
		if wholeErr != nil && strings.Contains(wholeErr.Error(), "nested deeper") {
			return
		}
		if other != (wholeErr != nil) || got != want {
			t.Fatalf("%q, %v, want %q", got, wholeErr, want)
		}
		switch {
		case err != nil && !errors.Is(err, ErrMore) && !other:
			t.Fatalf("a beginning is refused: %v", err)
		case err == nil && beginning != "" && (!found || beginning != want):
			t.Fatalf("a beginning gave %q, the whole %q", beginning, want)
		}
	})
}
