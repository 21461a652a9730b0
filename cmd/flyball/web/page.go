package web

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"flyball/rules"
)

// Page serves the page and the API.
type Page struct {
	Version   string
	Acting    bool                         // acting is enabled on the command line
	Status    func(context.Context) Status // what runs now
	Decisions Decisions                    // nil where this process has no rules
}

// Decisions is where decisions are read.
type Decisions interface {
	// Recent returns the newest decisions that the filter selects, at most n, newest first.
	Recent(f Filter, n int) []*rules.Decision
}

// Filter selects decisions; zero fields select all.
type Filter struct {
	ID, Rule     string
	Since, Until time.Time
}

// Status is what the page shows besides decisions.
type Status struct {
	Models   []Model
	Rules    []Rule
	Replicas []Replica
	Alerts   []Alert
	Groups   []Group
	Targets  []Target
}

// Model is a model behind the batching proxy.
type Model struct {
	Name                   string
	Ready, Queued, Running int // replicas, requests waiting, requests with a replica
}

// Rule is a scale rule and its last decision, nil before the first.
type Rule struct {
	Name, Target string
	Acts         bool
	Last         *rules.Decision
}

// Replica is one local model server.
type Replica struct {
	Target, Address, State string
	Index, PID, Restarts   int
	Since                  time.Time
	LastExit               string
}

// Alert is a pending or firing alert.
type Alert struct {
	Labels, State string
	Since         time.Time
	Value         float64
}

// Group is a rule group's last evaluation.
type Group struct {
	Name, File string
	Interval   time.Duration
	Rules      int
	Last       time.Time
	Duration   time.Duration
	Errors     []string
}

// Target is one scrape target.
type Target struct {
	Job, URL, Health, Error string
	Last                    time.Time
	Duration                time.Duration
}

//go:embed page.html
var pageText string

//go:embed style.css
var style []byte

// refreshSeconds is how often the page asks for itself again, unless ?refresh=off.
const refreshSeconds = 5

// decisionsShown is the number of decisions on the page; the API has more.
const decisionsShown = 50

// Register adds the page and the API to a mux.
func (p Page) Register(mux *http.ServeMux) {
	parsed := template.Must(template.New("page").Funcs(template.FuncMap{
		"clock": func(t time.Time) string { return t.Local().Format(time.DateTime) },
		"ago":   func(t time.Time) string { return ago(time.Now(), t) },
		"short": short,
	}).Parse(pageText))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, parsed) })
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = w.Write(style)
	})
	mux.HandleFunc("GET /api/v1/flyball/decisions", p.listDecisions)
	mux.HandleFunc("GET /api/v1/flyball/decisions/{id}", p.oneDecision)
	mux.HandleFunc("GET /api/v1/flyball/models", p.listModels)
	mux.HandleFunc("GET /api/v1/flyball/rules", p.listScaleRules)
	mux.HandleFunc("GET /api/v1/flyball/targets", p.listActuatorTargets)
	mux.HandleFunc("/api/", unknown)
}

func (p Page) serve(w http.ResponseWriter, r *http.Request, t *template.Template) {
	view := struct {
		Page
		Status
		Now       time.Time
		Refresh   int
		Decisions []*rules.Decision
		HasRules  bool
	}{Page: p, Status: p.Status(r.Context()), Now: time.Now(), HasRules: p.Decisions != nil}
	if r.URL.Query().Get("refresh") != "off" {
		view.Refresh = refreshSeconds
	}
	if p.Decisions != nil {
		view.Decisions = p.Decisions.Recent(Filter{Rule: r.URL.Query().Get("rule")}, decisionsShown)
	}
	// What is wrong comes first.
	slices.SortStableFunc(view.Targets, func(a, b Target) int { return worse(a.Health == "down", b.Health == "down") })
	slices.SortStableFunc(view.Replicas, func(a, b Replica) int { return worse(a.State != "ready", b.State != "ready") })
	slices.SortStableFunc(view.Groups, func(a, b Group) int { return worse(len(a.Errors) > 0, len(b.Errors) > 0) })
	var page bytes.Buffer // a page that fails half way is not sent
	if err := t.Execute(&page, view); err != nil {
		Text(w, http.StatusInternalServerError, fmt.Sprintf("the page cannot be made: %s\n", err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(page.Bytes())
}

// Text answers with plain text.
func Text(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}

func worse(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return short(now.Sub(t)) + " ago"
}

// short is a duration with the digits that matter.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
