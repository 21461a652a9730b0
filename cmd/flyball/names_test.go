package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/google/go-cmp/cmp"

	"flyball/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	text := strings.Join(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s: a change of names is a change for users: CHANGELOG.md, then -update\n%s", path, diff)
	}
}

// TestNames holds what users write and read: a change of a verb, flag, key or reason is a change for them.
func TestNames(t *testing.T) {
	t.Run("commands", func(t *testing.T) {
		app := kingpin.New("flyball", "")
		newCommands(app, io.Discard, io.Discard)
		var names []string
		var walk func(prefix string, c *kingpin.CmdModel)
		walk = func(prefix string, c *kingpin.CmdModel) {
			name := strings.TrimSpace(prefix + " " + c.Name)
			for _, f := range c.Flags {
				names = append(names, fmt.Sprintf("%s --%s=%s", name, f.Name, strings.Join(f.Default, ",")))
			}
			for _, sub := range c.Commands {
				walk(name, sub)
			}
			if len(c.Commands) == 0 {
				names = append(names, name)
			}
		}
		for _, c := range app.Model().Commands {
			walk("", c)
		}
		slices.Sort(names)
		golden(t, "commands.golden", names)
	})
	t.Run("keys", func(t *testing.T) {
		names := append(keys("config", reflect.TypeFor[Config]()), keys("rules", reflect.TypeFor[rules.File]())...)
		for kind, of := range map[string]reflect.Type{
			"record": reflect.TypeFor[rules.Record](), "alert": reflect.TypeFor[rules.Alert](), "scale": reflect.TypeFor[rules.Scale](),
			"budget": reflect.TypeFor[rules.Budget](), "slo": reflect.TypeFor[rules.SLO](), "optimize": reflect.TypeFor[rules.Optimize](),
			"forecast": reflect.TypeFor[rules.ForecastRule](),
		} {
			names = append(names, keys(kind, of)...)
		}
		slices.Sort(names)
		golden(t, "keys.golden", names)
	})
	t.Run("reasons", func(t *testing.T) {
		var names []string
		for _, r := range rules.Reasons() {
			names = append(names, string(r))
		}
		golden(t, "reasons.golden", names)
	})
}

// keys lists the YAML keys of a type and what is in it.
func keys(path string, t reflect.Type) (names []string) {
	switch t.Kind() {
	case reflect.Pointer:
		return keys(path, t.Elem())
	case reflect.Slice:
		return keys(path+"[]", t.Elem())
	case reflect.Map:
		return keys(path+".NAME", t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if tag == "" || tag == "-" || !f.IsExported() {
				continue
			}
			names = append(names, keys(path+"."+tag, f.Type)...)
		}
		if names == nil && strings.Contains(path, ".") {
			return []string{path}
		}
		return names
	}
	return []string{path}
}

// TestRunParts: parts end in the reverse order of their start, whatever ends them, and every error is told.
func TestRunParts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ends  string // the part that ends by itself
		fails error
		order []string
		err   string
	}{
		{"stopped", "", nil, []string{"c", "b", "a"}, "<nil>"},
		{"the first fails", "a", errors.New("broken"), []string{"a", "c", "b"}, "a: broken"},
		{"the last fails", "c", errors.New("broken"), []string{"c", "b", "a"}, "c: broken"},
		{"one ends by itself", "b", nil, []string{"b", "c", "a"}, "b: ended by itself"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var order []string
			var running sync.WaitGroup
			running.Add(3)
			ended := make(chan string, 3)
			newPart := func(name string) part {
				return part{name, func(ctx context.Context) error {
					running.Done()
					running.Wait()
					if name == tt.ends {
						ended <- name
						return tt.fails
					}
					if tt.ends == "" && name == "a" {
						cancel()
					}
					<-ctx.Done()
					ended <- name
					return ctx.Err()
				}}
			}
			stopped := false
			err := runParts(ctx, []part{newPart("a"), newPart("b"), newPart("c")}, func() { stopped = true })
			close(ended)
			for name := range ended {
				order = append(order, name)
			}
			if diff := cmp.Diff(tt.order, order); diff != "" {
				t.Error(diff)
			}
			if got := fmt.Sprint(err); got != tt.err || !stopped {
				t.Errorf("got %v, want %q; told that it stops: %v", err, tt.err, stopped)
			}
		})
	}
}
