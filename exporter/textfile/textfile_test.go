package textfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"flyball/exporter"
)

// written is when the files of the tests were written.
var written = time.Unix(1700000000, 0)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, written, written); err != nil {
		t.Fatal(err)
	}
}

// scrape returns the page through the exporter's checks, without how the collector fared, and the collector's error. The
// directory reads DIR.
func scrape(t *testing.T, c *Collector) (string, string) {
	t.Helper()
	e, err := exporter.New(exporter.Options{}, c)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e)
	families, err := registry.Gather()
	if err != nil {
		t.Errorf("gather: %v", err)
	}
	var page bytes.Buffer
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "flyball_collector_") {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&page, f); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Update(t.Context())
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	return strings.ReplaceAll(page.String(), c.directory, "DIR"), strings.ReplaceAll(fault, c.directory, "DIR")
}

// tail is what every page ends with.
func tail(failed int, files ...string) string {
	var b strings.Builder
	if len(files) > 0 {
		fmt.Fprintf(&b, "# HELP %[1]s %[2]s\n# TYPE %[1]s gauge\n", modified.Name, modified.Help)
	}
	for _, f := range files {
		fmt.Fprintf(&b, "%s{file=\"DIR/%s\"} 1.7e+09\n", modified.Name, f)
	}
	fmt.Fprintf(&b, "# HELP %[1]s %[2]s\n# TYPE %[1]s gauge\n%[1]s %[3]d\n", scrapeError.Name, scrapeError.Help, failed)
	return b.String()
}

func TestFiles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
		fault string
	}{
		{
			name: "every type",
			files: map[string]string{
				"all.prom": `# HELP accuracy_ratio Accuracy.
# TYPE accuracy_ratio gauge
accuracy_ratio{model="a"} 0.75
# TYPE jobs_total counter
jobs_total 3
# HELP size Sizes.
# TYPE size histogram
size_bucket{le="1"} 1
size_bucket{le="+Inf"} 2
size_sum 5
size_count 2
# HELP took Times.
# TYPE took summary
took{quantile="0.5"} 1
took_sum 5
took_count 2
untyped 1
`,
				"other.txt": "broken",
			},
			want: `# HELP accuracy_ratio Accuracy.
# TYPE accuracy_ratio gauge
accuracy_ratio{model="a"} 0.75
` + tail(0, "all.prom") + `# HELP jobs_total Metric read from DIR/all.prom
# TYPE jobs_total counter
jobs_total 3
# HELP size Sizes.
# TYPE size histogram
size_bucket{le="1"} 1
size_bucket{le="+Inf"} 2
size_sum 5
size_count 2
# HELP took Times.
# TYPE took summary
took{quantile="0.5"} 1
took_sum 5
took_count 2
# HELP untyped Metric read from DIR/all.prom
# TYPE untyped untyped
untyped 1
`,
		},
		{
			name:  "a family in two files",
			files: map[string]string{"a.prom": "# HELP x Help.\n# TYPE x gauge\nx{of=\"a\"} 1\n", "b.prom": "# TYPE x gauge\nx{of=\"b\",more=\"1\"} 2\n"},
			want:  tail(0, "a.prom", "b.prom") + "# HELP x Help.\n# TYPE x gauge\nx{of=\"a\"} 1\nx{more=\"1\",of=\"b\"} 2\n",
		},
		{
			name:  "no files",
			files: map[string]string{},
			want:  tail(0),
		},
		{
			name:  "an empty file",
			files: map[string]string{"a.prom": ""},
			want:  tail(0, "a.prom"),
		},
		{
			name:  "one that is cut off",
			files: map[string]string{"a.prom": "x 1\ny{of=\"a", "b.prom": "z 1\n"},
			want:  tail(1, "b.prom") + "# HELP z Metric read from DIR/b.prom\n# TYPE z untyped\nz 1\n",
			fault: `textfile: DIR/a.prom: text format parsing error in line 2: unexpected end of input stream`,
		},
		{
			name:  "one with a timestamp",
			files: map[string]string{"a.prom": "w 1\nx 1 1700000000000\n", "b.prom": "z 1\n"},
			want:  tail(1, "b.prom") + "# HELP z Metric read from DIR/b.prom\n# TYPE z untyped\nz 1\n",
			fault: "textfile: DIR/a.prom: x has a timestamp: values here are published as those of now",
		},
		{
			name: "two that differ about a family",
			files: map[string]string{
				"a.prom": "# HELP x Help.\n# TYPE x gauge\nx 1\n",
				"b.prom": "# HELP x Another.\n# TYPE x gauge\nx{of=\"b\"} 2\n# TYPE y gauge\ny 1\n",
				"c.prom": "# HELP x Help.\n# TYPE x counter\nx{of=\"c\"} 2\n",
			},
			want: tail(1, "a.prom", "b.prom", "c.prom") + "# HELP x Help.\n# TYPE x gauge\nx 1\n# HELP y Metric read from DIR/b.prom\n# TYPE y gauge\ny 1\n",
			fault: `textfile: DIR/b.prom: x is left out: DIR/a.prom has it with another help text
textfile: DIR/c.prom: x is left out: DIR/a.prom has it as gauge`,
		},
		{
			name:  "no text",
			files: map[string]string{"a.prom": "\x00\xff\xfe", "b.prom": "z 1\n"},
			want:  tail(1, "b.prom") + "# HELP z Metric read from DIR/b.prom\n# TYPE z untyped\nz 1\n",
			fault: "textfile: DIR/a.prom: text format parsing error in line 1: invalid metric name",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tt.files {
				write(t, filepath.Join(dir, name), text)
			}
			page, fault := scrape(t, New(Options{Directory: dir}))
			if diff := cmp.Diff(tt.want, page); diff != "" {
				t.Errorf("page (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.fault, fault); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSeriesTwice: the series of the first file is kept, and the collector is said to have failed.
func TestSeriesTwice(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.prom"), "x 1\n")
	write(t, filepath.Join(dir, "b.prom"), "x 2\ny 3\n")
	e, err := exporter.New(exporter.Options{}, New(Options{Directory: dir}))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range e.Gather(t.Context(), exporter.Request{}) {
		for _, m := range f.GetMetric() {
			got[f.GetName()] = m.GetUntyped().GetValue() + m.GetGauge().GetValue()
		}
	}
	if got["x"] != 1 || got["y"] != 3 || got["flyball_collector_success"] != 0 {
		t.Errorf("%v", got)
	}
}

// TestChanges: a file is read again when it has changed, and is gone when it is removed.
func TestChanges(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.prom")
	c := New(Options{Directory: dir})
	see := func(want string) {
		t.Helper()
		if page, fault := scrape(t, c); !strings.Contains(page, want) || fault != "" {
			t.Errorf("%s no %q on the page:\n%s", fault, want, page)
		}
	}
	write(t, path, "x 1\n")
	see("x 1\n")
	write(t, path, "x 22\n") // of another size
	see("x 22\n")
	write(t, path+".new", "x 33\n") // of the same size and time, in its place
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	see("x 33\n")
	before := c.files[path]
	see("x 33\n")
	if c.files[path] != before {
		t.Error("a file that has not changed was read again")
	}
	write(t, path, "x 4 5 6\n")
	if _, fault := scrape(t, c); fault == "" {
		t.Error("no fault of a file that broke")
	}
	write(t, path, "x 5\n")
	see("x 5\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if page, _ := scrape(t, c); strings.Contains(page, "x 5") || len(c.files) != 0 {
		t.Errorf("after it was removed:\n%s", page)
	}
}

// TestOddFiles: what is no file, or too much of one, costs nothing but itself.
func TestOddFiles(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, "target"), "linked 1\n")
	if err := os.Symlink(filepath.Join(elsewhere, "target"), filepath.Join(dir, "linked.prom")); err != nil {
		t.Skip(err)
	}
	for _, err := range []error{
		os.Symlink(filepath.Join(elsewhere, "nowhere"), filepath.Join(dir, "dangling.prom")),
		os.Mkdir(filepath.Join(dir, "folder.prom"), 0o755),
		os.Truncate(mustCreate(t, filepath.Join(dir, "large.prom")), maxFileSize+1),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := `textfile: DIR/dangling.prom: no such file or directory
textfile: DIR/folder.prom: it is not a regular file
textfile: DIR/large.prom: it has 16777217 bytes, more than 16777216`
	if runtime.GOOS == "linux" {
		makePipe(t, filepath.Join(dir, "pipe.prom"))
		want += "\ntextfile: DIR/pipe.prom: it is not a regular file"
	}
	page, fault := scrape(t, New(Options{Directory: dir}))
	if diff := cmp.Diff(want, fault); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if !strings.Contains(page, "linked 1\n") || !strings.Contains(page, scrapeError.Name+" 1\n") {
		t.Errorf("page:\n%s", page)
	}
}

func mustCreate(t *testing.T, path string) string {
	t.Helper()
	write(t, path, "")
	return path
}

func TestDirectory(t *testing.T) {
	if metrics, err := New(Options{}).Update(t.Context()); len(metrics) != 0 || !errors.Is(err, exporter.ErrNoData) {
		t.Errorf("without a directory: %d metrics, %v", len(metrics), err)
	}
	c := New(Options{Directory: filepath.Join(t.TempDir(), "missing")})
	page, fault := scrape(t, c)
	if diff := cmp.Diff(tail(1), page); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
	if want := "textfile: open DIR: no such file or directory"; fault != want {
		t.Errorf("error %s, want %s", fault, want)
	}
}

// TestMany: of too many files the first are read.
func TestMany(t *testing.T) {
	dir := t.TempDir()
	for i := range maxFiles + 1 {
		write(t, filepath.Join(dir, fmt.Sprintf("%04d.prom", i)), fmt.Sprintf("x{i=\"%d\"} 1\n", i))
	}
	page, fault := scrape(t, New(Options{Directory: dir}))
	if n := strings.Count(page, "\nx{"); n != maxFiles || !strings.Contains(fault, "more than 1000 files: those from 1000.prom on are left out") {
		t.Errorf("%d series, error %s", n, fault)
	}
}

// FuzzParse: whatever is in a file, the page that comes of it can be gathered.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"x 1\n", "# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_count 1\n", "x{a=\"b\"} NaN\n", "{\"é\",a=\"b\"} 1\n", "x 1 2\n", "# HELP x \\"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		families, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		var p page
		if err := p.add("a.prom", &file{families: families}); err != nil {
			t.Fatal(err)
		}
		for _, m := range p.metrics {
			if m.Desc() == nil {
				t.Fatal("a metric without a description")
			}
		}
		e, err := exporter.New(exporter.Options{}, fixed(p.metrics))
		if err != nil {
			t.Fatal(err)
		}
		e.Gather(t.Context(), exporter.Request{})
	})
}

// fixed is a collector of metrics that are there already.
type fixed []prometheus.Metric

func (f fixed) Name() string { return "fixed" }

func (f fixed) Update(context.Context) ([]prometheus.Metric, error) { return f, nil }
