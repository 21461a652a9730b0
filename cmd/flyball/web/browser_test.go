package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flyball/rules"
	"flyball/rules/peertest"
)

// TestBrowser drives the page in a real browser; testdata/browser/page.mjs says what must hold. Pictures of it are kept in
// .cache/screenshots.
func TestBrowser(t *testing.T) {
	chromium, node, modules := peertest.Binary(t, "chromium"), peertest.Binary(t, "node"), peertest.NodeModules(t)
	peertest.Reads(t, "testdata/browser/lib.mjs", "testdata/browser/page.mjs")
	now := time.Now()
	k := &kept{all: []*rules.Decision{decision(), hold()}}
	k.all[0].Time = now.Add(-time.Minute)
	for i := range 20 { // enough to scroll
		d := hold()
		d.ID, d.Time = fmt.Sprint("old", i), now.Add(-time.Duration(i+2)*time.Minute)
		k.all = append(k.all, d)
	}
	status := fullStatus()
	shift := now.Sub(noon)
	for i := range status.Replicas {
		status.Replicas[i].Since = status.Replicas[i].Since.Add(shift)
	}
	for i := range status.Alerts {
		status.Alerts[i].Since = status.Alerts[i].Since.Add(shift)
	}
	for i := range status.Groups {
		status.Groups[i].Last = status.Groups[i].Last.Add(shift)
	}
	for i := range status.Targets {
		status.Targets[i].Last = status.Targets[i].Last.Add(shift)
	}
	p := fullPage()
	p.Decisions, p.Status, p.Queries = k, func(context.Context) Status {
		s := status // the page sorts what it gets
		s.Models, s.Rules = append([]Model(nil), s.Models...), append([]Rule(nil), s.Rules...)
		return s
	}, &waves{}
	p.Forecasts = func() []rules.ForecastStatus { return forecastsAt(time.Now().Truncate(time.Second)) }
	mux := http.NewServeMux()
	p.Register(mux)
	mux.HandleFunc("/api/v1/query_range", queryRange(p.Queries))
	mux.HandleFunc("POST /test/decide", func(w http.ResponseWriter, _ *http.Request) {
		d := decision()
		d.ID, d.Time, d.Result, d.Error = fmt.Sprintf("new%d", time.Now().UnixNano()), time.Now(), rules.Applied, ""
		k.add(d)
		fmt.Fprint(w, d.ID)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("GET /test/elsewhere", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><link rel="icon" href="data:,"><form method="post" action="%s/-/freeze"><button>free GPUs</button></form>`, server.URL)
	})
	// The first samples of the empty one are to come, between two steps of a chart of an hour, which are 8 s.
	begins := time.Unix(1_800_000_003, 0)
	emptyMux := http.NewServeMux()
	noSamples := &waves{since: begins}
	Page{Status: func(context.Context) Status { return Status{} }, Decisions: &kept{}, Queries: noSamples, Brake: &brake{}}.Register(emptyMux)
	emptyMux.HandleFunc("/api/v1/query_range", queryRange(noSamples))
	empty := httptest.NewServer(emptyMux)
	defer empty.Close()

	shots, err := filepath.Abs(filepath.Join(modules, "..", "..", "screenshots"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/browser/page.mjs")
	cmd.Env = append(os.Environ(), "PAGE="+server.URL, "EMPTY="+empty.URL, fmt.Sprint("BEGINS=", begins.Unix()), "CHROMIUM="+chromium, "NODE_MODULES="+modules, "SCREENSHOTS="+shots)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", strings.TrimSpace(string(out)))
	if err != nil {
		t.Error(err)
	}
}
