package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckDashboardsAgainst: the headers and the client configuration of the command line reach the Prometheus, and what it
// answers decides the exit code.
func TestCheckDashboardsAgainst(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what is not a form has no values
		user, password, _ := r.BasicAuth()
		if r.Header.Get("X-Scope-OrgID") != "team-a" || user != "ada" || password != "secret" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == "/prometheus/api/v1/query_range" && r.FormValue("query") == "up":
			_, _ = w.Write([]byte(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"]]}]}}`))
		case r.URL.Path == "/prometheus/api/v1/query_range":
			_, _ = w.Write([]byte(`{"status":"success","data":{"resultType":"matrix","result":[]}}`))
		case r.URL.Path == "/prometheus/api/v1/label/__name__/values" && len(r.Form["match[]"]) == 0:
			_, _ = w.Write([]byte(`{"status":"success","data":["up","vllm:kv_cache_usage_perc"]}`))
		default:
			_, _ = w.Write([]byte(`{"status":"success","data":[]}`))
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good.json":    `{"title":"G","panels":[{"type":"heatmap","title":"P","targets":[{"refId":"A","expr":"up"}]}]}`,
		"renamed.json": `{"title":"R","panels":[{"type":"heatmap","title":"P","targets":[{"refId":"A","expr":"max(vllm:gpu_cache_usage_perc)"}]}]}`,
		"http.yml":     "basic_auth: {username: ada, password_file: password}\n",
		"password":     "secret",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, file string
		args       []string
		code       int
		stderr     string
	}{
		{"data", "good.json", []string{"--header=X-Scope-OrgID=team-a", "--http.config.file=" + filepath.Join(dir, "http.yml")}, exitOK, ""},
		{
			"a metric that was renamed", "renamed.json",
			[]string{"--header=X-Scope-OrgID=team-a", "--http.config.file=" + filepath.Join(dir, "http.yml")},
			exitFailed,
			`renamed.json:1:90: panel "P", query A: no series: no metric "vllm:gpu_cache_usage_perc" (did you mean "vllm:kv_cache_usage_perc"?)`,
		},
		{"no password", "good.json", []string{"--header=X-Scope-OrgID=team-a"}, exitFailed, "client error: 401"},
		{"another tenant", "good.json", []string{"--http.config.file=" + filepath.Join(dir, "http.yml")}, exitFailed, "client error: 401"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"check", "dashboards", "--no-lint", "--against=" + server.URL + "/prometheus", filepath.Join(dir, tt.file)}, tt.args...)
			if code := execute(t.Context(), args, &stdout, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("exit %d, want %d; stderr, want %q:\n%s%s", code, tt.code, tt.stderr, stdout.String(), stderr.String())
			}
		})
	}
}
