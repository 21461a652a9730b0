package textfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTotal: of files that are too much together those that fit, by their names, are published, and the others are once there is room.
func TestTotal(t *testing.T) {
	const (
		small = "a 1\n"
		large = "b{x=\"1\"} 1\nb{x=\"2\"} 1\nb{x=\"3\"} 1\n"
		sizes = "# TYPE c histogram\nc_bucket{le=\"1\"} 1\nc_bucket{le=\"+Inf\"} 1\nc_sum 1\nc_count 1\n"
	)
	for _, tt := range []struct {
		name  string
		opts  Options
		files map[string]string
		want  []string // of a, b, c and d
		fault string
	}{
		{"all fit", Options{MaxBytes: 1000, MaxSeries: 9}, map[string]string{"1.prom": small, "2.prom": large, "3.prom": sizes, "4.prom": "d 1\n"}, []string{"a", "b", "c", "d"}, ""},
		{
			"one series too many",
			Options{MaxSeries: 8},
			map[string]string{"1.prom": small, "2.prom": large, "3.prom": sizes, "4.prom": "d 1\n"},
			[]string{"a", "b", "c"},
			"textfile: DIR/4.prom: with its 1 series all files have more than 8 together",
		},
		{
			"what fits after it stays",
			Options{MaxSeries: 5},
			map[string]string{"1.prom": small, "2.prom": large, "3.prom": sizes, "4.prom": "d 1\n"},
			[]string{"a", "b", "d"},
			"textfile: DIR/3.prom: with its 4 series all files have more than 5 together",
		},
		{
			"bytes",
			Options{MaxBytes: int64(len(small)+len(large)) - 1},
			map[string]string{"1.prom": small, "2.prom": large, "3.prom": ""},
			[]string{"a"},
			"textfile: DIR/2.prom: with its 33 bytes all files have more than 36 together",
		},
		{"a broken one takes none", Options{MaxSeries: 1}, map[string]string{"1.prom": "a{", "4.prom": "d 1\n"}, []string{"d"}, "textfile: DIR/1.prom: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Directory = t.TempDir()
			for name, text := range tt.files {
				write(t, filepath.Join(tt.opts.Directory, name), text)
			}
			c := New(tt.opts)
			for range 2 { // the second is of what is kept
				page, fault := scrape(t, c)
				var got []string
				for _, name := range []string{"a", "b", "c", "d"} {
					if strings.Contains(page, "# TYPE "+name+" ") {
						got = append(got, name)
					}
				}
				if strings.Join(got, "") != strings.Join(tt.want, "") {
					t.Errorf("published are %v, want %v", got, tt.want)
				}
				if fault != tt.fault && (tt.name != "a broken one takes none" || !strings.HasPrefix(fault, tt.fault)) {
					t.Errorf("the fault is %q, want %q", fault, tt.fault)
				}
				failed := scrapeError.Name + " 0\n"
				if tt.fault != "" {
					failed = scrapeError.Name + " 1\n"
				}
				if !strings.Contains(page, failed) {
					t.Errorf("no %q in\n%s", failed, page)
				}
			}
			if err := os.Remove(filepath.Join(tt.opts.Directory, "1.prom")); err != nil {
				t.Fatal(err)
			}
			if _, fault := scrape(t, c); fault != "" && tt.name != "what fits after it stays" {
				t.Errorf("with more room: %s", fault)
			}
		})
	}
}
