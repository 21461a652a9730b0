package promapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
)

func written(d Data) string {
	var b bytes.Buffer
	w := bufio.NewWriterSize(&b, 16) // small: the data must not depend on its size
	d.WriteJSON(w)
	_ = w.Flush()
	return b.String()
}

func TestWriteJSON(t *testing.T) {
	for _, tt := range []struct {
		data Data
		want string
	}{
		{Strings(nil), `[]`},
		{Strings{"a", `"\` + "\n\r\t\x00\x1f\x7f <&> ü 日本", "\xffend"}, `["a","\"\\\n\r\t\u0000\u001f` + "\x7f" + ` <&> ü 日本","` + "\uFFFD" + `end"]`},
		{JSON(map[string]int{"b": 1, "a": 2}), `{"a":2,"b":1}`},
	} {
		if got := written(tt.data); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}

func TestAppendTime(t *testing.T) {
	for ms, want := range map[int64]string{
		0: "0", 1: "0.001", 10: "0.010", 100: "0.100", 1000: "1", 1500: "1.500", 1795392729982: "1795392729.982",
		-1: "-0.001", -1500: "-1.500", -2000: "-2", math.MinInt64: "-9223372036854775.808", math.MaxInt64: "9223372036854775.807",
	} {
		if got := string(AppendTime(nil, ms)); got != want {
			t.Errorf("%d is %s, want %s", ms, got, want)
		}
	}
}

func TestAppendValue(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", -1: "-1", 0.5: "0.5", 1e20: "100000000000000000000", 1e21: "1e+21", 1e-6: "0.000001", 9.5e-7: "9.5e-07",
		1 << 53: "9007199254740992", -1 << 53: "-9007199254740992", math.MaxFloat64: "1.7976931348623157e+308",
		math.Inf(1): "+Inf", math.Inf(-1): "-Inf",
	} {
		if got := string(AppendValue(nil, v)); got != `"`+want+`"` {
			t.Errorf("%g is %s, want %s", v, got, want)
		}
	}
	if got := string(AppendValue(nil, math.NaN())); got != `"NaN"` {
		t.Errorf("NaN is %s", got)
	}
	if got := string(AppendValue(nil, math.Copysign(0, -1))); got != `"-0"` {
		t.Errorf("minus zero is %s", got)
	}
}

// FuzzAppend: what is written reads back as it was.
func FuzzAppend(f *testing.F) {
	f.Add("text", 1.5, int64(1795392729982))
	f.Add("\xff\u2028\"\\", -0.0, int64(-1))
	f.Fuzz(func(t *testing.T, text string, v float64, ms int64) {
		var gotText string
		if err := json.Unmarshal(AppendString(nil, text), &gotText); err != nil || gotText != strings.ToValidUTF8(text, "\uFFFD") {
			t.Errorf("%q reads back as %q: %v", text, gotText, err)
		}
		var value string
		if err := json.Unmarshal(AppendValue(nil, v), &value); err != nil {
			t.Fatalf("%g: %v", v, err)
		}
		if got, err := strconv.ParseFloat(value, 64); err != nil || math.Float64bits(got) != math.Float64bits(v) && !math.IsNaN(v) {
			t.Errorf("%g reads back as %g: %v", v, got, err)
		}
		whole, part, _ := strings.Cut(string(AppendTime(nil, ms)), ".")
		if len(part) != 0 && len(part) != 3 {
			t.Errorf("%d is %s.%s", ms, whole, part)
		}
		if got, err := strconv.ParseInt(whole+(part + "000")[:3], 10, 64); err != nil || got != ms {
			t.Errorf("%d reads back as %d: %v", ms, got, err)
		}
	})
}

func TestErrors(t *testing.T) {
	err := InvalidParameter("step", io.EOF)
	if err.Error() != `invalid parameter "step": EOF` || TypeOf(fmt.Errorf("more: %w", err)) != BadData || !errors.Is(err, io.EOF) {
		t.Errorf("%v, %s", err, TypeOf(err))
	}
	if TypeOf(io.EOF) != Internal {
		t.Errorf("an error without a type is %s", TypeOf(io.EOF))
	}
}

func TestClose(t *testing.T) {
	n := 0
	r := &Result{Release: func() { n++ }}
	r.Close()
	(&Result{}).Close()
	if n != 1 {
		t.Errorf("released %d times", n)
	}
}
