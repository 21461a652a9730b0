package web

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

// Page serves the page, /graph, the freeze button and the API of decisions.
type Page struct {
	Version    string
	ConfigFile string                       // for hints of what to do next; empty: flyball.yml
	Acting     bool                         // acting is enabled on the command line
	Lifecycle  bool                         // --web.enable-lifecycle: what changes state may be asked for over HTTP
	Status     func(context.Context) Status // what runs now; the page sorts the slices that it gets
	Decisions  Decisions                    // nil where this process has no rules
	Queries    Queries                      // nil where it has no store: then there are no charts and no /graph
	Brake      Brake                        // nil where nothing acts

	// Forecasts says how the forecast rules stand; nil: there are none here.
	Forecasts func() []rules.ForecastStatus

	// Warnings say what keeps this process from its work, such as a journal that cannot be written: on top of the page, and in
	// each answer of the API. nil: nothing does.
	Warnings func() []string
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
	Every        bool // evaluations that changed nothing too, as far as they are in memory
}

// Queries answers PromQL. Errors are shown to the user.
type Queries interface {
	// Query answers a query at one time.
	Query(ctx context.Context, expr string, at time.Time) ([]rules.Sample, error)
	// QueryRange answers a query at each step from start to end.
	QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error)
}

// Series is one series of the answer to a range query, its points in order of time.
type Series struct {
	Labels labels.Labels
	Points []Point
}

// Point is one value of a series at one time.
type Point struct {
	Time  time.Time
	Value float64
}

// Status is what the page shows besides decisions.
type Status struct {
	Models     []Model
	Window     time.Duration // that the rates and latencies of Models are over; 0 when there are none
	ModelError string        // why there are none although there is a store
	Rules      []Rule
	Replicas   []Replica
	Alerts     []Alert
	Groups     []Group
	Targets    []Target
	Budgets    []Budget
	Scraper    string // the URL of the Prometheus elsewhere, which scrapes; empty where this process does
}

// Model is a model behind the batching proxy.
type Model struct {
	Name                   string
	Targets                []string // kind/name of the targets that it is sent to
	Ready, Queued, Running int      // replicas, requests waiting, requests with a replica
	MaxBatch               int      // rows; 0 when it is not known
	// What the store has; NaN where it has nothing.
	Rate      float64 // answers a second
	Errors    float64 // share of them with a code of rules.ErrorCodes, 0 to 1
	P50, P99  float64 // seconds from a request's arrival to its answer
	BatchSize float64 // rows in a batch, on average
	Demand    []Point // arrivals a second over the last minutes
}

// Rule is a scale rule and its last decision, nil before the first.
type Rule struct {
	Name, Target string
	Acts         bool
	Paused       *rules.Freeze // nil: it is not
	Forecasts    []string      // forecast rules that its signals use
	Last         *rules.Decision
}

// Budget is a budget rule.
type Budget struct {
	Name, Policy, Period string
	AppliesTo            []string // scale rules
	rules.BudgetStatus
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
	Name, State string
	Labels      labels.Labels // without the name
	Summary     string        // its annotation summary, or description
	Runbook     string        // its annotation runbook_url
	Expr        string        // empty when it is not known
	Since       time.Time
	Value       float64
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

//go:embed templates
var templates embed.FS

// securityPolicy lets the page use what this process serves and nothing else. There is no inline script or style; uPlot
// sets styles on elements by script, which the policy is not about.
const securityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// site is a Page with what it needs to be served.
type site struct {
	Page
	assets *assets
	tokens tokens
	pages  *template.Template
	charts charts
	now    func() time.Time
}

// Register adds the page and the API to a mux.
func (p Page) Register(mux *http.ServeMux) { p.register(mux, time.Now) }

func (p Page) register(mux *http.ServeMux, now func() time.Time) {
	s := p.site(now)
	// Another site's page must not change state here, nor in a browser that follows a link.
	guard := http.NewCrossOriginProtection()
	mux.HandleFunc("GET /{$}", s.overview)
	mux.HandleFunc("GET /graph", s.graph)
	mux.HandleFunc("GET /forecasts/{name}", s.forecast)
	mux.Handle("GET /static/", s.assets)
	mux.Handle("/-/freeze", guard.Handler(http.HandlerFunc(s.freeze)))
	mux.HandleFunc("GET /api/v1/flyball/decisions", p.listDecisions)
	mux.HandleFunc("GET /api/v1/flyball/decisions/{id}", p.oneDecision)
	mux.HandleFunc("GET /api/v1/flyball/models", p.listModels)
	mux.HandleFunc("GET /api/v1/flyball/rules", p.listScaleRules)
	mux.HandleFunc("GET /api/v1/flyball/targets", p.listActuatorTargets)
	mux.HandleFunc("GET /api/v1/flyball/budgets", p.listBudgets)
	mux.HandleFunc("GET /api/v1/flyball/forecasts", p.listForecasts)
	mux.HandleFunc("/api/", unknown)
}

// site prepares what is embedded, which tests have shown to be whole.
func (p Page) site(now func() time.Time) *site {
	if p.ConfigFile == "" {
		p.ConfigFile = "flyball.yml"
	}
	a, err := newAssets()
	if err != nil {
		panic(err)
	}
	s := &site{Page: p, assets: a, tokens: newTokens(), now: now}
	s.pages = template.Must(template.New("").Funcs(s.functions()).ParseFS(templates, "templates/*.html"))
	return s
}

// send makes a page of a template and sends it: one that fails half way is not sent.
func (s *site) send(w http.ResponseWriter, r *http.Request, code int, name string, view any) {
	var page bytes.Buffer
	if err := s.pages.ExecuteTemplate(&page, name, view); err != nil {
		Text(w, http.StatusInternalServerError, fmt.Sprintf("the page cannot be made: %s\n", err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", securityPolicy)
	h.Set("Referrer-Policy", "same-origin") // with no-referrer the freeze form's Origin would be null
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding")
	body := page.Bytes()
	if takesGzip(r) {
		packed, err := compress(body)
		if err != nil {
			Text(w, http.StatusInternalServerError, fmt.Sprintf("the page cannot be compressed: %s\n", err))
			return
		}
		h.Set("Content-Encoding", "gzip")
		body = packed
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

// Text answers with plain text.
func Text(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}
