package protocol

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// toBinary is a request with its tensors of two and more numbers a row in binary.
func toBinary(dst []byte, m Message) (Message, bool) {
	c, ok := OIP{}.ToBinary(m, 2)
	if !ok {
		return Message{}, false
	}
	out, ok := c.Append(dst)
	if ok && len(out.Body) != c.Size() {
		panic("another size")
	}
	return out, ok
}

// elementsOf are the elements of a request's tensor in binary, as JSON has them.
func elementsOf(t testing.TB, datatype string, data []byte) []string {
	t.Helper()
	width := widthOf(datatype)
	if width < 1 || len(data)%width != 0 {
		t.Fatalf("%d bytes of %s", len(data), datatype)
	}
	var out []string
	for ; len(data) > 0; data = data[width:] {
		word := make([]byte, 8)
		copy(word, data[:width])
		bits := binary.LittleEndian.Uint64(word)
		switch {
		case datatype == "FP32":
			out = append(out, strconv.FormatFloat(float64(math.Float32frombits(uint32(bits))), 'g', -1, 32))
		case datatype == "FP64":
			out = append(out, strconv.FormatFloat(math.Float64frombits(bits), 'g', -1, 64))
		case strings.HasPrefix(datatype, "U"):
			out = append(out, strconv.FormatUint(bits, 10))
		default: // with the sign of its own width
			shift := 64 - 8*width
			out = append(out, strconv.FormatInt(int64(bits<<shift)>>shift, 10))
		}
	}
	return out
}

func TestToBinary(t *testing.T) {
	for _, tt := range []struct{ name, body, header, datatype, elements string }{
		{
			"flat", `{"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1, -2.5,3e-2 ,0.1]}],"outputs":[{"name":"y"}]}`,
			`{"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","parameters":{"binary_data_size":16}}],"outputs":[{"name":"y"}]}`,
			"FP32", "1 -2.5 0.03 0.1",
		},
		{
			"nested, and the data first", ` { "inputs" : [ { "data" : [ [[1,2], [3,4]] , [ [5,6],[7,8] ] ], "shape":[2,2,2], "datatype":"UINT8", "name":"x" } ] } `,
			`{"inputs" : [{"shape":[2,2,2],"datatype":"UINT8","name":"x","parameters":{"binary_data_size":8}}]}`,
			"UINT8", "1 2 3 4 5 6 7 8",
		},
		{
			"its parameters stay", `{"inputs":[{"parameters":{"content_type":"np", "a":[1]},"name":"x","shape":[1,2],"datatype":"INT8","data":[-128,127]}]}`,
			`{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT8","parameters":{"content_type":"np", "a":[1],"binary_data_size":2}}]}`,
			"INT8", "-128 127",
		},
		{
			"null is none", `{"inputs":[{"parameters":null,"name":"x","shape":[1,2],"datatype":"INT16","data":[-1,2]}]}`,
			`{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT16","parameters":{"binary_data_size":4}}]}`,
			"INT16", "-1 2",
		},
		{
			"those that cannot be stay", `{"inputs":[{"name":"s","shape":[1,2],"datatype":"BYTES","data":["a","]"]},{"name":"x","shape":[1,2],"datatype":"INT64","data":[9007199254740993,-9223372036854775808]},{"name":"b","shape":[1,2],"datatype":"BOOL","data":[true,false]}]}`,
			`{"inputs":[{"name":"s","shape":[1,2],"datatype":"BYTES","data":["a","]"]},{"name":"x","shape":[1,2],"datatype":"INT64","parameters":{"binary_data_size":16}},{"name":"b","shape":[1,2],"datatype":"BOOL","data":[true,false]}]}`,
			"INT64", "9007199254740993 -9223372036854775808",
		},
		{
			"all of 64 bits", `{"inputs":[{"name":"x","shape":[1,2],"datatype":"UINT64","data":[18446744073709551615,0]}]}`,
			`{"inputs":[{"name":"x","shape":[1,2],"datatype":"UINT64","parameters":{"binary_data_size":16}}]}`,
			"UINT64", "18446744073709551615 0",
		},
		{
			"minus zero, and long and small numbers", `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[-0.0,0.1234567890123456789,5e-324,-1.7976931348623157e308]}]}`,
			`{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","parameters":{"binary_data_size":32}}]}`,
			"FP64", "-0 0.12345678901234568 5e-324 -1.7976931348623157e+308",
		},
		{
			"names with escapes", `{"inp\u0075ts":[{"name":"\u0078","shape":[1,2],"datatype":"FP\u00332","data":[1,2]}]}`, "", "", "", // jsontext is to see them
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := []byte("before")
			m, ok := toBinary(before, Message{Body: []byte(tt.body)})
			if ok != (tt.header != "") {
				t.Fatalf("%t", ok)
			}
			if !ok {
				return
			}
			if diff := cmp.Diff(tt.header, string(m.Body[:m.Header])); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(strings.Fields(tt.elements), elementsOf(t, tt.datatype, m.Body[m.Header:])); diff != "" {
				t.Error(diff)
			}
			if _, err := (OIP{}).Parse(m); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestToBinaryStaysAsItIs: what is wrong, or means another thing in binary, is for others to see as the client wrote it.
func TestToBinaryStaysAsItIs(t *testing.T) {
	tensor := func(more string) string { return `{"inputs":[{"name":"x",` + more + `}]}` }
	for name, body := range map[string]string{
		"few numbers in a row":       tensor(`"shape":[3,1],"datatype":"FP32","data":[1,2,3]`),
		"one dimension":              tensor(`"shape":[2],"datatype":"FP32","data":[1,2]`),
		"no room in FP32":            tensor(`"shape":[1,2],"datatype":"FP32","data":[1,1e39]`),
		"no room in FP64":            tensor(`"shape":[1,2],"datatype":"FP64","data":[1,1e400]`),
		"no room in INT8":            tensor(`"shape":[1,2],"datatype":"INT8","data":[1,128]`),
		"no room in UINT8":           tensor(`"shape":[1,2],"datatype":"UINT8","data":[1,256]`),
		"no room in INT64":           tensor(`"shape":[1,2],"datatype":"INT64","data":[1,9223372036854775808]`),
		"less than none":             tensor(`"shape":[1,2],"datatype":"UINT8","data":[1,-1]`),
		"a whole zero with a minus":  tensor(`"shape":[1,2],"datatype":"FP32","data":[1,-0]`),
		"a part of one":              tensor(`"shape":[1,2],"datatype":"INT32","data":[1,1.0]`),
		"an exponent":                tensor(`"shape":[1,2],"datatype":"INT32","data":[1,1e1]`),
		"FP16":                       tensor(`"shape":[1,2],"datatype":"FP16","data":[1,2]`),
		"unknown":                    tensor(`"shape":[1,2],"datatype":"FP8","data":[1,2]`),
		"a text among numbers":       tensor(`"shape":[1,2],"datatype":"FP32","data":[1,"2"]`),
		"a literal among numbers":    tensor(`"shape":[1,2],"datatype":"FP32","data":[1,null]`),
		"too few":                    tensor(`"shape":[1,3],"datatype":"FP32","data":[1,2]`),
		"too many":                   tensor(`"shape":[1,2],"datatype":"FP32","data":[1,2,3]`),
		"room for gigabytes":         tensor(`"shape":[1,2147483647],"datatype":"FP64","data":[1,2,3]`),
		"nested otherwise":           tensor(`"shape":[2,2],"datatype":"FP32","data":[[1,2,3],[4]]`),
		"too few nested":             tensor(`"shape":[2,2],"datatype":"FP32","data":[[10000,20000]]`),
		"nested in part":             tensor(`"shape":[2,2],"datatype":"FP32","data":[[1,2],3,4]`),
		"not nested enough":          tensor(`"shape":[1,2,1],"datatype":"FP32","data":[[10000,20000]]`),
		"a comma too many":           tensor(`"shape":[1,2],"datatype":"FP32","data":[1,2,]`),
		"no comma":                   tensor(`"shape":[1,2],"datatype":"FP32","data":[1 2]`),
		"a zero too many":            tensor(`"shape":[1,2],"datatype":"FP32","data":[01,2]`),
		"a plus":                     tensor(`"shape":[1,2],"datatype":"FP32","data":[+1,2]`),
		"a dot and no more":          tensor(`"shape":[1,2],"datatype":"FP32","data":[1.,2]`),
		"a minus and no more":        tensor(`"shape":[1,2],"datatype":"FP32","data":[-,2]`),
		"data twice":                 tensor(`"shape":[1,2],"datatype":"FP32","data":[1,2],"data":[3,4]`),
		"parameters twice":           tensor(`"shape":[1,2],"datatype":"FP32","parameters":{},"parameters":{},"data":[1,2]`),
		"the size is given":          tensor(`"shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8},"data":[1,2]`),
		"in shared memory":           tensor(`"shape":[1,2],"datatype":"FP32","parameters":{"shared_memory_region":"r"},"data":[1,2]`),
		"inputs twice":               `{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}],"inputs":[]}`,
		"no end":                     `{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]`,
		"no end of the data":         `{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2`,
		"more after it":              `{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]} 1`,
		"an input that is no object": `{"inputs":[1,{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}`,
		"empty":                      ``,
		"no object":                  `[1]`,
	} {
		t.Run(name, func(t *testing.T) {
			if m, ok := toBinary(nil, Message{Body: []byte(body)}); ok {
				t.Errorf("%q", m.Body)
			}
		})
	}
	if _, ok := toBinary(nil, Message{Body: []byte(tensor(`"shape":[1,2],"datatype":"FP32","data":[1,2]`)), Header: 5}); ok {
		t.Error("one that is in binary")
	}
}

// TestToBinaryNumbers: every number is the one that strconv reads.
func TestToBinaryNumbers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var texts []string
	for range 200_000 {
		x := math.Float64frombits(random.Uint64())
		switch random.IntN(4) {
		case 0:
			x = random.NormFloat64()
		case 1:
			x = float64(random.IntN(2000)-1000) / 1000
		case 2:
			x = float64(float32(x))
		}
		if math.IsNaN(x) || math.Abs(x) > math.MaxFloat32 {
			continue
		}
		text, _ := json.Marshal(x)
		if random.IntN(3) == 0 {
			text = strconv.AppendFloat(nil, x, 'f', random.IntN(20), 64)
		}
		if string(text) != "-0" {
			texts = append(texts, string(text))
		}
	}
	for _, datatype := range []string{"FP32", "FP64"} {
		body := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[1,%d],"datatype":%q,"data":[%s]}]}`, len(texts), datatype, strings.Join(texts, ", "))
		m, ok := toBinary(nil, Message{Body: []byte(body)})
		if !ok {
			t.Fatal("not in binary")
		}
		for i, text := range texts {
			x, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			if datatype == "FP32" {
				if got, want := binary.LittleEndian.Uint32(m.Body[m.Header+4*i:]), math.Float32bits(float32(x)); got != want {
					t.Fatalf("%s: %x, want %x", text, got, want)
				}
			} else if got, want := binary.LittleEndian.Uint64(m.Body[m.Header+8*i:]), math.Float64bits(x); got != want {
				t.Fatalf("%s: %x, want %x", text, got, want)
			}
		}
	}
}

// FuzzToBinary: what a request is in binary is what it was in JSON: as many rows, the same members, the same numbers. What is no request in JSON is none
// in binary.
func FuzzToBinary(f *testing.F) {
	for _, body := range []string{
		`{"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1, -2.5,3e-2 ,0.1]}],"outputs":[{"name":"y"}]}`,
		`{"inputs":[{"data":[[[1,2],[3,4]],[[5,6],[7,8]]],"shape":[2,2,2],"datatype":"UINT8","name":"x"}],"parameters":{"priority":1}}`,
		`{"inputs":[{"parameters":{"a":1},"name":"x","shape":[1,2],"datatype":"INT8","data":[-128,127]},{"name":"s","shape":[1,2],"datatype":"BYTES","data":["a","]"]}]}`,
		`{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT64","data":[9007199254740993,-9223372036854775808]}]}`,
		`{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP64","data":[01,2]}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, ok := toBinary(nil, Message{Body: body})
		if !ok {
			return
		}
		got, err := (OIP{}).Parse(m)
		want, wantErr := (OIP{}).Parse(Message{Body: body})
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v in binary, %v in JSON: %q", err, wantErr, m.Body)
		}
		if err != nil {
			return
		}
		if got.Items != want.Items || got.Priority != want.Priority || got.Timeout != want.Timeout || string(got.id) != string(want.id) ||
			string(got.rest) != string(want.rest) || string(got.params) != string(want.params) || len(got.parts) != len(want.parts) {
			t.Fatalf("%+v in binary, %+v in JSON", got, want)
		}
		// In structs, Data and DAtA would be one.
		read := func(text []byte) (inputs []map[string]any) {
			var all map[string]json.RawMessage
			decoder := json.NewDecoder(bytes.NewReader(text))
			if err := decoder.Decode(&all); err != nil {
				t.Fatal(err)
			}
			decoder = json.NewDecoder(bytes.NewReader(all["inputs"]))
			decoder.UseNumber()
			if err := decoder.Decode(&inputs); err != nil {
				t.Fatal(err)
			}
			return inputs
		}
		heads := read(m.Body[:m.Header])
		at := m.Header
		for i, input := range read(body) {
			parameters, _ := heads[i]["parameters"].(map[string]any)
			number, ok := parameters["binary_data_size"].(json.Number)
			if !ok {
				continue
			}
			size, err := strconv.Atoi(string(number))
			if err != nil {
				t.Fatal(err)
			}
			datatype := fmt.Sprint(input["datatype"])
			var wanted []string
			var flatten func(v any)
			flatten = func(v any) {
				if all, ok := v.([]any); ok {
					for _, v := range all {
						flatten(v)
					}
					return
				}
				text := fmt.Sprint(v)
				if strings.HasPrefix(datatype, "FP") {
					x, _ := strconv.ParseFloat(text, 64)
					if datatype == "FP32" {
						x = float64(float32(x))
						text = strconv.FormatFloat(x, 'g', -1, 32)
					} else {
						text = strconv.FormatFloat(x, 'g', -1, 64)
					}
				} else if text == "-0" {
					text = "0"
				}
				wanted = append(wanted, text)
			}
			flatten(input["data"])
			if diff := cmp.Diff(wanted, elementsOf(t, datatype, m.Body[at:at+size])); diff != "" {
				t.Fatal(diff)
			}
			at += size
		}
		if at != len(m.Body) {
			t.Fatalf("%d bytes more", len(m.Body)-at)
		}
	})
}
