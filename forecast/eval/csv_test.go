package eval_test

import (
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/forecast/eval"
)

var nan = math.NaN()

// sameFloats compares NaN as equal to NaN.
func sameFloats() cmp.Option {
	return cmp.Comparer(func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) })
}

func TestReadCSV(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct {
		name, file string
		want       eval.Table
	}{
		{
			name: "seconds, two series, missing values",
			file: "t,a,b\n0,1,10\n600,,20\n1200,3,NaN\n1800,4,40\n",
			want: eval.Table{Series: []eval.Series{
				{Name: "a", Start: time.Unix(0, 0).UTC(), Step: 10 * time.Minute, Values: []float64{1, nan, 3, 4}},
				{Name: "b", Start: time.Unix(0, 0).UTC(), Step: 10 * time.Minute, Values: []float64{10, 20, nan, 40}},
			}},
		},
		{
			name: "RFC 3339 with zones, a byte order mark, quotes and CRLF",
			file: "\ufefftime,\"req, a second\"\r\n2026-03-29T01:30:00+01:00,1\r\n2026-03-29T03:00:00+02:00,2\r\n2026-03-29T01:30:00Z,3\r\n",
			want: eval.Table{Series: []eval.Series{
				{Name: "req, a second", Start: at("2026-03-29T00:30:00Z"), Step: 30 * time.Minute, Values: []float64{1, 2, 3}},
			}},
		},
		{
			name: "plain times, a gap",
			file: "timestamp,value\n2014-07-01 00:00:00,1\n2014-07-01 00:05:00,2\n2014-07-01 00:20:00,5\n2014-07-01 00:25:00,6\n",
			want: eval.Table{
				Series: []eval.Series{{Name: "value", Start: at("2014-07-01T00:00:00Z"), Step: 5 * time.Minute, Values: []float64{1, 2, nan, nan, 5, 6}}},
				Notes:  []string{"f.csv: 2 steps of 5m0s have no row: their values are missing"},
			},
		},
		{
			name: "disorder, duplicates, off the step, two rows in a step",
			file: "t,a\n120,3\n60,2\n0,1\n180,4\n180,5\n180,\n240,6\n299,7\n310,9\n",
			want: eval.Table{
				Series: []eval.Series{{Name: "a", Start: time.Unix(0, 0).UTC(), Step: time.Minute, Values: []float64{1, 2, 3, 5, 6, 8}}},
				Notes: []string{
					"f.csv: 2 rows come before the one above them: rows are sorted by time",
					"f.csv: 2 times are there again: the later row counts",
					"f.csv: 2 times are not on the step of 1m0s: they are put on the nearest",
					"f.csv: 1 row shares its step with another: the mean counts",
				},
			},
		},
		{
			name: "the phase that most times have",
			file: "t,a\n3,1\n67,2\n127,3\n187,4\n",
			want: eval.Table{
				Series: []eval.Series{{Name: "a", Start: time.Unix(7, 0).UTC(), Step: time.Minute, Values: []float64{1, 2, 3, 4}}},
				Notes:  []string{"f.csv: 1 time is not on the step of 1m0s: it is put on the nearest"},
			},
		},
		{
			name: "fractions of a second, before 1970",
			file: "t,a\n-1,1\n-0.5,2\n0,3\n0.5,4\n",
			want: eval.Table{Series: []eval.Series{{Name: "a", Start: time.Unix(-1, 0).UTC(), Step: 500 * time.Millisecond, Values: []float64{1, 2, 3, 4}}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := eval.ReadCSV(strings.NewReader(tt.file), "f.csv")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, sameFloats()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestReadCSVJitter has times of which no two differ by the same, as scrapes have.
func TestReadCSVJitter(t *testing.T) {
	var b strings.Builder
	b.WriteString("t,a\n")
	for i := range 200 {
		fmt.Fprintf(&b, "%.3f,%d\n", float64(i*60)+float64(i*i*7919%997)/1000, i)
	}
	got, err := eval.ReadCSV(strings.NewReader(b.String()), "f.csv")
	if err != nil {
		t.Fatal(err)
	}
	s := got.Series[0]
	if s.Step != time.Minute || len(s.Values) != 200 {
		t.Fatalf("%d values at a step of %s, want 200 at 1m", len(s.Values), s.Step)
	}
	for i, v := range s.Values {
		if v != float64(i) {
			t.Errorf("value %d is %v", i, v)
		}
	}
}

func TestReadCSVFails(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"empty", "", "f.csv:1:1: the file is empty: expected a line of column names, the time first"},
		{"no header", "0,1\n60,2\n", `f.csv:1:1: "0" is a time: expected a line of column names first`},
		{"no series", "t\n1\n", "f.csv:1:1: no column beside the time: expected a comma and the name of a series"},
		{"names", "t,a,,a\n", "f.csv:1:5: column 3 has no name\nf.csv:1:6: column \"a\" is there twice"},
		{
			"all faults at once", "t,a\nx,1\n60,y\n120\n180,Inf\n2026-01-01 00:00:00,1\n",
			"f.csv:2:1: time \"x\": expected seconds since 1970, RFC 3339 or 2006-01-02 15:04:05\n" +
				"f.csv:3:4: a \"y\": expected a number, or empty or NaN where it is missing\n" +
				"f.csv:4:1: 1 fields: expected 2 as in the first line\n" +
				"f.csv:5:5: a \"Inf\": expected a number from -1e+100 to 1e+100, or empty or NaN where it is missing\n" +
				"f.csv:6:1: time \"2026-01-01 00:00:00\": expected seconds since 1970 as in the rows before",
		},
		{"milliseconds", "t,a\n1700000000000,1\n", `f.csv:2:1: time "1700000000000": out of range for seconds since 1970 (are these milliseconds?)`},
		{"a quote", "t,a\n0,\"1\n", `f.csv:2:6: extraneous or missing " in quoted-field`},
		{"one row", "t,a\n0,1\n", "f.csv: 1 times: two are needed to know the step"},
		{"no rows", "t,a\n", "f.csv: 0 times: two are needed to know the step"},
		{"one time", "t,a\n0,1\n0,2\n", "f.csv: 1 times: two are needed to know the step"},
		{"a stray time", "t,a\n0,1\n1,2\n2,3\n1700000000,4\n", "f.csv:5: from the first time to the last there are 1700000001 steps of 1s: at most 1000000"},
		{"a step of centuries", "t,a\n0,1\n10000000000,2\n", "f.csv:3: the step is 115740 days: at most 366"},
		{"ten faults are enough", "t,a\n" + strings.Repeat("x,1\n", 50), strings.TrimSuffix(func() (s string) {
			for i := range 10 {
				s += fmt.Sprintf("f.csv:%d:1: time \"x\": expected seconds since 1970, RFC 3339 or 2006-01-02 15:04:05\n", i+2)
			}
			return s
		}(), "\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := eval.ReadCSV(strings.NewReader(tt.file), "f.csv")
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// endless is a file that never ends.
type endless struct {
	line string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.line[e.at]
		e.at = (e.at + 1) % len(e.line)
	}
	return len(p), nil
}

func TestReadCSVIsBounded(t *testing.T) {
	for _, tt := range []struct{ name, head, line, want string }{
		{"rows", "t,a\n", "1,2\n", "f.csv: more than 1000000 rows"},
		{"one line", "t,", "abcd", "f.csv: larger than 64 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := eval.ReadCSV(io.MultiReader(strings.NewReader(tt.head), &endless{line: tt.line}), "f.csv")
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzReadCSV(f *testing.F) {
	for _, s := range []string{
		"t,a\n0,1\n60,2\n", "t,a\n2026-01-01T00:00:00Z,1\n2026-01-01T00:01:00Z,\n", "t,a\n2026-01-01 00:00:00,1\n2026-01-01 00:00:30,NaN\n",
		"t,a,b\n0,1,2\n0,3,4\n-5,1e12,-0\n1e3,,\n", "\"", "t,a\n0.0001,1\n0.0002,2\n", "t,a\n-62135596800,1\n253402300799,2\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, file string) {
		table, err := eval.ReadCSV(strings.NewReader(file), "f.csv")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f.csv:") {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		if len(table.Series) == 0 {
			t.Error("no series and no error")
		}
		for _, s := range table.Series {
			if s.Step <= 0 || len(s.Values) < 2 || len(s.Values) > eval.MaxSteps {
				t.Errorf("%d values at a step of %s", len(s.Values), s.Step)
			}
			for _, v := range s.Values {
				if math.IsInf(v, 0) {
					t.Error("an infinite value")
				}
			}
		}
	})
}
