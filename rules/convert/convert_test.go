package convert

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// kinds are the two conversions, by their word on the command line.
var kinds = map[string]func([]Input, Options) (*Result, error){"hpa": HPA, "scaledobject": ScaledObject}

// lint is what a rule file has that is probably not meant.
func lint(t *testing.T, name string, text []byte) string {
	t.Helper()
	reader := rules.Reader{Defaults: rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 30 * time.Second}}
	if _, err := reader.Parse(name, text); err != nil {
		t.Fatal(err)
	}
	if err := reader.Lint(); err != nil {
		return err.Error()
	}
	return ""
}

// TestGolden holds what becomes of every metric, trigger and field. Each file that comes out is one that flyball takes, and has
// no lint.
func TestGolden(t *testing.T) {
	for kind, convert := range kinds {
		files, err := filepath.Glob(filepath.Join("testdata", kind, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatal(kind, files, err)
		}
		for _, path := range files {
			t.Run(kind+"/"+filepath.Base(path), func(t *testing.T) {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				r, err := convert([]Input{{Name: filepath.Base(path), Text: text}}, Options{})
				if err != nil {
					t.Fatal(err)
				}
				golden := strings.TrimSuffix(path, ".yaml") + ".golden.yml"
				if *update {
					if err := os.WriteFile(golden, r.Text, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), string(r.Text)); diff != "" {
					t.Error(diff)
				}
				if found := lint(t, golden, r.Text); found != "" {
					t.Error(found)
				}
				if n := strings.Count(string(r.Text), "NOT CARRIED OVER"); n != r.Left {
					t.Errorf("%d of the comments say that something is left, and the result says %d", n, r.Left)
				}
			})
		}
	}
}
