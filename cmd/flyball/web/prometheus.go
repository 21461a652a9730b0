package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/common/model"

	"flyball/rules/promapi"
)

const (
	// maxForm is the most that a POST may carry: a query of a megabyte is none that a person or a dashboard wrote.
	maxForm = 1 << 20

	// answerBuffer is what an answer is written through.
	answerBuffer = 32 << 10

	// statusClientClosed is nginx's status for a client that went away, which Prometheus uses.
	statusClientClosed = 499
)

// Prometheus serves Prometheus's HTTP API under /api/v1/.
type Prometheus struct {
	// Store returns what answers a request; nil where this process has no store.
	Store func(*http.Request) PrometheusStore
	Build BuildInfo
}

// PrometheusStore answers Prometheus's API. Its errors are *promapi.Error.
type PrometheusStore interface {
	QueryInstant(context.Context, promapi.Query) (*promapi.Result, error)
	QuerySteps(context.Context, promapi.Range) (*promapi.Result, error)
	LabelNames(context.Context, promapi.Selection) (*promapi.Result, error)
	LabelValues(ctx context.Context, name string, sel promapi.Selection) (*promapi.Result, error)
	ListSeries(context.Context, promapi.Selection) (*promapi.Result, error)
	Exemplars(context.Context, promapi.Exemplars) (*promapi.Result, error)
	FormatExpr(expr string) (*promapi.Result, error)
	ListRules(promapi.RuleFilter) (*promapi.Result, error)
	ListAlerts() *promapi.Result
	ListTargets(promapi.TargetFilter) *promapi.Result
	ListMetadata(context.Context, promapi.MetadataFilter) (*promapi.Result, error)
}

// BuildInfo is the answer of status/buildinfo: Prometheus's fields, of which Version is the embedded Prometheus's, since
// clients choose by it what they may ask, and flyball's own version. There must be no field features: Grafana takes a
// server that has it for Mimir.
type BuildInfo struct {
	Version   string `json:"version"`
	Revision  string `json:"revision"`
	Branch    string `json:"branch"`
	BuildUser string `json:"buildUser"`
	BuildDate string `json:"buildDate"`
	GoVersion string `json:"goVersion"`
	Flyball   string `json:"flyball"`
}

// question answers one request, whose form is parsed. A result without data is one without content.
type question func(*http.Request, PrometheusStore) (*promapi.Result, error)

// Register adds the API to a mux. Answers from a kilobyte on are compressed for clients that take it.
func (p Prometheus) Register(mux *http.ServeMux) {
	compress, err := gzhttp.NewWrapper(gzhttp.EnableZstd(false)) // as Prometheus; and its encoders want megabytes
	if err != nil {                                              // these options are fine, or no test passes
		panic(err)
	}
	for path, ask := range map[string]question{
		"query": instant, "query_range": steps, "query_exemplars": exemplars, "format_query": format,
		"labels": labelNames, "series": series,
	} {
		mux.Handle("/api/v1/"+path, compress(p.serve(ask, http.MethodGet, http.MethodHead, http.MethodPost)))
	}
	for path, ask := range map[string]question{
		"label/{name}/values": labelValues, "rules": listRules, "alerts": listAlerts, "targets": listTargets, "metadata": metadata,
	} {
		mux.Handle("/api/v1/"+path, compress(p.serve(ask, http.MethodGet, http.MethodHead)))
	}
	mux.Handle("/api/v1/status/buildinfo", compress(allow(func(w http.ResponseWriter, _ *http.Request) {
		write(w, &promapi.Result{Data: promapi.JSON(p.Build)})
	}, http.MethodGet, http.MethodHead)))
}

func (p Prometheus) serve(ask question, methods ...string) http.Handler {
	return allow(func(w http.ResponseWriter, r *http.Request) {
		if err := parseForm(w, r); err != nil {
			respond(w, http.StatusRequestEntityTooLarge, answer{Status: "error", ErrorType: string(promapi.BadData), Error: err.Error()})
			return
		}
		s := p.Store(r)
		if s == nil {
			fail(w, &promapi.Error{Type: promapi.NotFound, Err: errors.New("this process has no store: it runs without the role rules")})
			return
		}
		result, err := ask(r, s)
		if err != nil {
			fail(w, err)
			return
		}
		defer result.Close()
		write(w, result)
	}, methods...)
}

// allow answers methods other than those given. There are no CORS headers: pages of other origins are not let in.
func allow(h http.HandlerFunc, methods ...string) http.Handler {
	allowed := strings.Join(append(methods, http.MethodOptions), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case slices.Contains(methods, r.Method):
			h(w, r)
		case r.Method == http.MethodOptions:
			w.Header().Set("Allow", allowed)
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Allow", allowed)
			respond(w, http.StatusMethodNotAllowed, answer{
				Status: "error", ErrorType: string(promapi.BadData),
				Error: fmt.Sprintf("method %s is not allowed here: expected one of %s", r.Method, allowed),
			})
		}
	})
}

// parseForm parses what the request carries. Like Prometheus it takes what can be read and lets the rest be, except for
// a body that is too long.
func parseForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	err := r.ParseForm()
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		err = r.ParseMultipartForm(maxForm)
	}
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("error parsing form values: the body is longer than %d bytes", tooLong.Limit)
	}
	return nil
}

func instant(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	var in params
	q := promapi.Query{Expr: r.FormValue("query"), Limit: in.limit(r), Time: in.time(r, "time", time.Now())}
	ctx, cancel := in.context(r)
	defer cancel()
	q.Lookback, q.Stats = in.lookback(r), r.FormValue("stats") != ""
	if in.err != nil {
		return nil, in.err
	}
	return withStatsWarning(r)(s.QueryInstant(ctx, q))
}

func steps(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	var in params
	q := promapi.Range{Expr: r.FormValue("query"), Limit: in.limit(r), Start: in.givenTime(r, "start"), End: in.givenTime(r, "end")}
	if in.err == nil && q.End.Before(q.Start) {
		return nil, promapi.InvalidParameter("end", errors.New("end timestamp must not be before start time"))
	}
	q.Step = in.step(r)
	ctx, cancel := in.context(r)
	defer cancel()
	q.Lookback, q.Stats = in.lookback(r), r.FormValue("stats") != ""
	if in.err != nil {
		return nil, in.err
	}
	return withStatsWarning(r)(s.QuerySteps(ctx, q))
}

// withStatsWarning adds Prometheus's warning of a value for stats that it will refuse one day.
func withStatsWarning(r *http.Request) func(*promapi.Result, error) (*promapi.Result, error) {
	return func(result *promapi.Result, err error) (*promapi.Result, error) {
		if value := r.FormValue("stats"); err == nil && value != "" && value != "true" && value != "all" {
			result.Warnings = append(result.Warnings, fmt.Sprintf(
				"value %q for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"", value))
		}
		return result, err
	}
}

func exemplars(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	var in params
	q := promapi.Exemplars{
		Expr: r.FormValue("query"), Start: in.time(r, "start", promapi.MinTime), End: in.time(r, "end", promapi.MaxTime),
	}
	if in.err != nil {
		return nil, in.err
	}
	if q.End.Before(q.Start) {
		return nil, &promapi.Error{Type: promapi.BadData, Err: errors.New("end timestamp must not be before start timestamp")}
	}
	return s.Exemplars(r.Context(), q)
}

func format(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	return s.FormatExpr(r.FormValue("query"))
}

func labelNames(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	return s.LabelNames(r.Context(), sel)
}

func labelValues(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	name := r.PathValue("name")
	if strings.HasPrefix(name, "U__") {
		name = model.UnescapeName(name, model.ValueEncodingEscaping)
	}
	if !model.UTF8Validation.IsValidLabelName(name) {
		return nil, &promapi.Error{Type: promapi.BadData, Err: fmt.Errorf("invalid label name: %q", name)}
	}
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	return s.LabelValues(r.Context(), name, sel)
}

func series(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	if len(r.Form["match[]"]) == 0 {
		return nil, &promapi.Error{Type: promapi.BadData, Err: errors.New("no match[] parameter provided")}
	}
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	return s.ListSeries(r.Context(), sel)
}

func selection(r *http.Request) (promapi.Selection, error) {
	var in params
	sel := promapi.Selection{
		Limit: in.limit(r), Start: in.time(r, "start", promapi.MinTime), End: in.time(r, "end", promapi.MaxTime), Match: r.Form["match[]"],
	}
	return sel, in.err
}

func listRules(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	var in params
	kind := strings.ToLower(r.URL.Query().Get("type"))
	if kind != "" && kind != "alert" && kind != "record" {
		return nil, promapi.InvalidParameter("type", fmt.Errorf("not supported value %q", kind))
	}
	f := promapi.RuleFilter{
		Alerts: kind != "record", Records: kind != "alert",
		Names: r.Form["rule_name[]"], Groups: r.Form["rule_group[]"], Files: r.Form["file[]"], Match: r.Form["match[]"],
		ExcludeAlerts: in.excludeAlerts(r),
	}
	f.GroupLimit, f.NextToken = in.groupPage(r)
	if in.err != nil {
		return nil, in.err
	}
	return s.ListRules(f)
}

func listAlerts(_ *http.Request, s PrometheusStore) (*promapi.Result, error) {
	return s.ListAlerts(), nil
}

func listTargets(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	state := strings.ToLower(r.URL.Query().Get("state"))
	both := state == "" || state == "any"
	return s.ListTargets(promapi.TargetFilter{
		Active: both || state == "active", Dropped: both || state == "dropped", Pool: r.URL.Query().Get("scrapePool"),
	}), nil
}

func metadata(r *http.Request, s PrometheusStore) (*promapi.Result, error) {
	var in params
	f := promapi.MetadataFilter{Metric: r.FormValue("metric"), Limit: in.number(r, "limit"), LimitPerMetric: in.number(r, "limit_per_metric")}
	if in.err != nil {
		return nil, in.err
	}
	return s.ListMetadata(r.Context(), f)
}

// write streams an answer. What the client did not take is lost, and the request's end says so to it.
func write(w http.ResponseWriter, result *promapi.Result) {
	if result.Data == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	out := bufio.NewWriterSize(w, answerBuffer)
	_, _ = out.WriteString(`{"status":"success","data":`)
	result.Data.WriteJSON(out)
	if len(result.Warnings) > 0 {
		_, _ = out.WriteString(`,"warnings":`)
		promapi.Strings(result.Warnings).WriteJSON(out)
	}
	if len(result.Infos) > 0 {
		_, _ = out.WriteString(`,"infos":`)
		promapi.Strings(result.Infos).WriteJSON(out)
	}
	_ = out.WriteByte('}')
	_ = out.Flush()
}

// fail answers with an error and the status of its type.
func fail(w http.ResponseWriter, err error) {
	kind := promapi.TypeOf(err)
	code := http.StatusInternalServerError
	switch kind {
	case promapi.BadData:
		code = http.StatusBadRequest
	case promapi.Execution:
		code = http.StatusUnprocessableEntity
	case promapi.Canceled:
		code = statusClientClosed
	case promapi.Timeout, promapi.Unavailable:
		code = http.StatusServiceUnavailable
	case promapi.NotFound:
		code = http.StatusNotFound
	case promapi.Internal:
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer{Status: "error", ErrorType: string(kind), Error: err.Error()})
}
