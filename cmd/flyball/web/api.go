package web

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"flyball/rules"
)

// MaxDecisions is the most that one answer of the API holds.
const MaxDecisions = 1000

type answer struct {
	Status    string `json:"status"`
	Data      any    `json:"data,omitempty"`
	ErrorType string `json:"errorType,omitempty"`
	Error     string `json:"error,omitempty"`

	Warnings []string `json:"warnings,omitempty"` // as in Prometheus's API: the data is there, and something is wrong
}

func (p Page) warnings() []string {
	if p.Warnings == nil {
		return nil
	}
	return p.Warnings()
}

// success is the answer with that data.
func (p Page) success(w http.ResponseWriter, data any) {
	respond(w, http.StatusOK, answer{Status: "success", Data: data, Warnings: p.warnings()})
}

func (p Page) listDecisions(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := Filter{Rule: q.Get("rule")}
	limit := 100
	var err error
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 0 || limit > MaxDecisions {
			badData(w, "limit", text, fmt.Sprintf("a number from 1 to %d, or 0 for that many", MaxDecisions))
			return
		}
		if limit == 0 { // as in Prometheus's API: no limit of the caller's
			limit = MaxDecisions
		}
	}
	for name, at := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if text := q.Get(name); text != "" {
			if *at, err = parseTime(text); err != nil {
				badData(w, name, text, "RFC 3339 or Unix seconds")
				return
			}
		}
	}
	if text := q.Get("every"); text != "" {
		if f.Every, err = strconv.ParseBool(text); err != nil {
			badData(w, "every", text, "true or false")
			return
		}
	}
	if p.Decisions == nil {
		respond(w, http.StatusNotFound, answer{Status: "error", ErrorType: "not_found", Error: "this process has no rules: it runs without the role rules"})
		return
	}
	found := p.Decisions.Recent(f, limit)
	if found == nil {
		found = []*rules.Decision{}
	}
	p.success(w, found)
}

func (p Page) oneDecision(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if p.Decisions != nil {
		if found := p.Decisions.Recent(Filter{ID: id}, 1); len(found) > 0 {
			p.success(w, found[0])
			return
		}
	}
	respond(w, http.StatusNotFound, answer{Status: "error", ErrorType: "not_found", Error: fmt.Sprintf("no decision with the id %q is remembered", id)})
}

// unknown answers what the API does not have: another method than GET, another path.
func unknown(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		respond(w, http.StatusMethodNotAllowed, answer{Status: "error", ErrorType: "bad_data", Error: fmt.Sprintf("method %s is not allowed here: expected GET", r.Method)})
		return
	}
	respond(w, http.StatusNotFound, answer{Status: "error", ErrorType: "not_found", Error: fmt.Sprintf("no %s in the API of this version", r.URL.Path)})
}

func badData(w http.ResponseWriter, name, text, expected string) {
	respond(w, http.StatusBadRequest, answer{Status: "error", ErrorType: "bad_data", Error: fmt.Sprintf("invalid parameter %q: %q: expected %s", name, text, expected)})
}

func respond(w http.ResponseWriter, code int, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(a)
}

// parseTime takes the two forms that Prometheus's API takes.
func parseTime(text string) (time.Time, error) {
	if s, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(s) < 1e11 {
		whole, part := math.Modf(s)
		return time.Unix(int64(whole), int64(part*1e9)), nil
	}
	return time.Parse(time.RFC3339Nano, text)
}
