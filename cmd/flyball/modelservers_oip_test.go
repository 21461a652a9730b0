package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"flyball/exporter"
)

// TestOIPServer: a server that wants a token is asked for its models with the one that the configuration gives.
func TestOIPServer(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := map[string]string{
			"/v2": `{"name": "x", "version": "1"}`, "/v2/models": `{"models": ["iris"]}`, "/v2/models/iris": `{}`, "/v2/models/iris/ready": `{}`,
		}[r.URL.Path]
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			http.Error(w, "", http.StatusUnauthorized)
		case !known:
			http.NotFound(w, r)
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	s := exporter.DefaultModelServer()
	s.Name, s.URL, s.Engine, s.BearerTokenFile = "s", server.URL+"/metrics", "oip", token
	c := exporter.DefaultConfig()
	c.ModelServers = []exporter.ModelServer{s}
	a := &app{opts: &runOptions{log: slog.New(slog.DiscardHandler)}}
	_, facts, err := a.newModels(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := facts.Update(t.Context())
	if err != nil || len(metrics) == 0 {
		t.Errorf("%d series, error %v", len(metrics), err)
	}
}
