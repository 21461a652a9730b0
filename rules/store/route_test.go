package store

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
	"flyball/rules/promapi"
)

// elsewhere is a Prometheus that has one series for every query, and remembers what it was asked.
type elsewhere struct {
	mu    sync.Mutex
	asked []string
	value float64
	err   error

	answers map[string]string // of Forward, by path
	warning string
	closed  int // answers of Forward
}

func (e *elsewhere) Query(_ context.Context, expr string, at time.Time, _ time.Duration) ([]rules.Sample, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, expr)
	if e.err != nil {
		return nil, e.err
	}
	return []rules.Sample{{Labels: labels.FromStrings("__name__", "remote", "from", "elsewhere"), Value: e.value, Time: at}}, nil
}

// Forward answers by what the test has for the path, and an error of its own for what it has not.
func (e *elsewhere) Forward(_ context.Context, path string, form url.Values) (*promapi.Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, path+"?"+form.Encode())
	text, ok := e.answers[path]
	if !ok {
		return nil, &promapi.Error{Type: promapi.Timeout, Err: errors.New("it is slow")}
	}
	r := &promapi.Result{Data: promapi.Raw(text), Release: func() { e.closed++ }}
	if e.warning != "" {
		r.Warnings = []string{e.warning}
	}
	return r, nil
}

func (e *elsewhere) questions() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	asked := slices.Compact(slices.Sorted(slices.Values(e.asked)))
	e.asked = nil
	return asked
}

func takeOver(t *testing.T, s *Store, c Config) {
	t.Helper()
	p, err := s.Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(nil); err != nil {
		t.Fatal(err)
	}
}

// reader is an Evaluator that writes what it queries.
type reader struct {
	q    rules.Querier
	expr string
}

func (reader) Name() string     { return "reader" }
func (reader) Writes() []string { return []string{"read"} }
func (r reader) Eval(ctx context.Context, at time.Time) ([]rules.Sample, error) {
	samples, err := r.q.Query(ctx, r.expr, at, 0)
	for i := range samples {
		samples[i].Labels = labels.FromStrings("__name__", "read")
	}
	return samples, err
}

// TestRouting: each query goes to the side that has its series, and sees at once what the rule above it wrote.
func TestRouting(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, "up", t0, 5) // what the store has from an earlier life is not asked for
	there := &elsewhere{value: 7}
	takeOver(t, s, Config{Remote: there, Groups: []Group{{Name: "a", Interval: time.Second, Rules: []Rule{
		{Record: &Record{Name: "own", Expr: "sum(up)", Labels: map[string]string{"a": "b"}}},
		{Record: &Record{Name: "twice", Expr: "own * 2"}},
		{Evaluator: reader{s.Router(), "twice"}},
		{Alert: &Alert{Name: "Local", Expr: "read > 13"}},
		{Alert: &Alert{Name: "There", Expr: "up > 1", Annotations: map[string]string{"text": `{{ query "down" | first | value }}`}}},
		{Record: &Record{Name: "firing", Expr: `count(ALERTS{alertstate="firing"})`}},
	}}}})
	eval(t, s, t0.Add(time.Second))
	if diff := cmp.Diff([]string{"down", "sum(up)", "up > 1"}, there.questions()); diff != "" {
		t.Errorf("asked elsewhere: %s", diff)
	}
	want := `{__name__="own", a="b", from="elsewhere"} 7
{__name__="twice", a="b", from="elsewhere"} 14
{__name__="read"} 14
{__name__="firing"} 2`
	var got []string
	for _, name := range []string{"own", "twice", "read", "firing"} {
		got = append(got, ask(t, s, name, t0.Add(time.Second)))
	}
	if diff := cmp.Diff(want, strings.Join(got, "\n")); diff != "" {
		t.Error(diff)
	}
	for _, a := range s.Alerts() {
		if text := a.Annotations.Get("text"); text != "" && text != "7" {
			t.Errorf("the template got %s", text)
		}
	}

	t.Run("failure", func(t *testing.T) {
		there.err = errors.New("down for maintenance")
		eval(t, s, t0.Add(2*time.Second))
		st := s.Groups()[0].Rules
		if st[0].Health != "err" || !strings.Contains(st[0].LastError, "down for maintenance") || st[1].Health != "ok" {
			t.Errorf("%+v", st[:2])
		}
		if len(s.Alerts()) != 2 {
			t.Errorf("alerts ended with the connection: %+v", s.Alerts())
		}
		there.err = nil
	})

	t.Run("mix", func(t *testing.T) {
		before := s.route.Load()
		_, err := s.Prepare(Config{Remote: there, Groups: []Group{
			{Name: "a", Interval: time.Second, Rules: []Rule{{Record: &Record{Name: "own", Expr: "up"}}}},
			{Name: "b", File: "f", Interval: time.Second, Rules: []Rule{{Record: &Record{Name: "x", Expr: "1"}}, {Alert: &Alert{Name: "Both", Expr: "own > up"}}}},
		}})
		if err == nil || !strings.HasPrefix(err.Error(), "group f;b: rules[1]: Both: the query mixes series of the Prometheus elsewhere (up) with those that the rules write (own)") {
			t.Errorf("got %v", err)
		}
		if s.route.Load() != before {
			t.Error("it was taken over")
		}
		if _, err := s.Router().Query(t.Context(), "own + up", t0, 0); err == nil || !strings.Contains(err.Error(), "query own + up: the query mixes") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("SetGroups", func(t *testing.T) { // keeps the side, and what is own follows the groups
		setGroups(t, s, Group{Name: "c", Interval: time.Second, Rules: []Rule{{Record: &Record{Name: "other", Expr: "own + 1"}}}})
		there.questions()
		eval(t, s, t0.Add(10*time.Second))
		if diff := cmp.Diff([]string{"own + 1"}, there.questions()); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("embedded again", func(t *testing.T) {
		takeOver(t, s, Config{Groups: []Group{{Name: "c", Interval: time.Second, Rules: []Rule{{Record: &Record{Name: "other", Expr: "up + other"}}}}}})
		there.questions()
		eval(t, s, t0.Add(12*time.Second))
		if samples, err := s.Router().Query(t.Context(), "up", t0, 0); err != nil || len(samples) != 1 || samples[0].Value != 5 {
			t.Errorf("got %v, %v", samples, err)
		}
		if asked := there.questions(); asked != nil {
			t.Errorf("asked elsewhere: %s", asked)
		}
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Router().Query(t.Context(), "up", t0, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v after the end", err)
	}
}
