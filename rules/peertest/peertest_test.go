package peertest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"flyball/rules/peertest"
)

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestServers starts each of the servers, once more after it was stopped and after it was killed.
func TestServers(t *testing.T) {
	for _, tt := range []struct {
		name, path, want string
		start            func(t *testing.T) *peertest.Server
	}{
		{"prometheus", "/api/v1/status/buildinfo", `"version":"2.42`, func(t *testing.T) *peertest.Server {
			return peertest.Prometheus(t, "global: {scrape_interval: 1m}\n")
		}},
		{"victoria-metrics", "/api/v1/query?query=1", `"status":"success"`, func(t *testing.T) *peertest.Server {
			return peertest.VictoriaMetrics(t)
		}},
		{"alertmanager", "/api/v2/status", `"version":`, func(t *testing.T) *peertest.Server {
			return peertest.Alertmanager(t, "route: {receiver: none}\nreceivers: [{name: none}]\n")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := tt.start(t)
			for _, end := range []func(){s.Stop, s.Kill} {
				if got := get(t, s.URL+tt.path); !strings.Contains(got, tt.want) {
					t.Errorf("%s: %s, want it to have %s", tt.path, got, tt.want)
				}
				end()
				if _, err := http.Get(s.URL); err == nil {
					t.Error("it answers after its end")
				}
				s.Restart()
			}
		})
	}
}
