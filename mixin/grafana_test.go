package mixin

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flyball/rules/peertest"
)

// typed is a TypeScript program in which a dashboard is a literal, so that Grafana's own types say what is wrong with it:
// importing the JSON instead would widen every literal to string.
const typed = `import type { AnnotationQuery, Dashboard, DataQuery } from '@grafana/schema';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
// The values of enumerations, as JSON has them, stand for their members.
type Plain<T> = T extends string ? ` + "`${T}`" + ` : T extends number ? T : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
// What the Prometheus data source reads of an annotation beyond what every data source does.
type Annotation = AnnotationQuery<DataQuery & { expr: string }> & { titleFormat?: string; textFormat?: string; useValueForTime?: boolean };
type PrometheusDashboard = Omit<Dashboard, 'annotations'> & { annotations: { list: Annotation[] } };
type Options = { timeseries: Plain<timeseries.Options>; stat: Plain<stat.Options>; table: Plain<Partial<table.Options>> };
type Custom = { timeseries: Plain<timeseries.FieldConfig>; stat: never; table: Plain<Partial<table.FieldConfig>> };
`

// TestGrafanaTypes: the dashboards are what Grafana's types of a dashboard, and of the options of each type of panel, say.
func TestGrafanaTypes(t *testing.T) {
	modules := peertest.NodeModules(t)
	dir := t.TempDir()
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	check := func(name, dashboard string) (string, error) {
		var parsed struct {
			Panels []struct {
				ID          int
				Type        string
				Options     json.RawMessage
				FieldConfig struct {
					Defaults struct{ Custom json.RawMessage }
				}
			}
		}
		if err := json.Unmarshal([]byte(dashboard), &parsed); err != nil {
			return "", err
		}
		var program strings.Builder
		program.WriteString(typed)
		fmt.Fprintf(&program, "export const dashboard: Plain<PrometheusDashboard> = %s;\n", dashboard)
		for _, p := range parsed.Panels {
			if p.Options != nil {
				fmt.Fprintf(&program, "export const options%d: Options[%q] = %s;\n", p.ID, p.Type, p.Options)
			}
			if custom := p.FieldConfig.Defaults.Custom; custom != nil {
				fmt.Fprintf(&program, "export const custom%d: Custom[%q] = %s;\n", p.ID, p.Type, custom)
			}
		}
		file := filepath.Join(dir, name+".ts")
		if err := os.WriteFile(file, []byte(program.String()), 0o644); err != nil {
			return "", err
		}
		cmd := exec.Command(peertest.Binary(t, "node"), filepath.Join(modules, "typescript", "bin", "tsc"), "--noEmit", "--strict", "--skipLibCheck",
			"--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", file)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	rendered, err := Render(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range rendered {
		if filepath.Ext(name) != ".json" {
			continue
		}
		if out, err := check("good", string(text)); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		// And the types do say so when something is wrong: an unknown key, a wrong type, a value that is none of the choices.
		broken := strings.NewReplacer(`"refresh": "30s"`, `"refresh": "30s", "refersh": 1`, `"displayMode": "table"`, `"displayMode": "tabel"`,
			`"lineWidth": 1`, `"lineWidth": "1"`).Replace(string(text))
		out, err := check("broken", broken)
		for _, want := range []string{`'"refersh"' does not exist`, `'"tabel"' is not assignable`, "'string' is not assignable to type 'number'"} {
			if err == nil || !strings.Contains(out, want) {
				t.Errorf("%s broken: %v, no %q in:\n%s", name, err, want, out)
			}
		}
	}
}
