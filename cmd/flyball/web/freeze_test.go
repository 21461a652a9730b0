package web

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
)

// TestFreeze: who may stop acting and let it go on, and from where.
func TestFreeze(t *testing.T) {
	browser := func(more ...string) http.Header {
		h := http.Header{"User-Agent": {"Mozilla/5.0"}, "Accept": {"text/html,*/*"}, "Content-Type": {"application/x-www-form-urlencoded"}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	curl := http.Header{"User-Agent": {"curl/8"}, "Content-Type": {"application/x-www-form-urlencoded"}}
	p := fullPage()
	token := func() string {
		page := get(t, p, "/").Body.String()
		return regexp.MustCompile(`name="token" value="([0-9a-f]+)"`).FindStringSubmatch(page)[1]
	}
	frozen := &rules.Freeze{At: noon, By: "192.0.2.1", Why: "a rollout"}
	for _, tt := range []struct {
		name, method string
		header       http.Header
		form         url.Values
		off          bool   // lifecycle
		page         bool   // with the token of this process's page
		code         int    //
		body         string // what the answer has
		location     string
		frozen       *rules.Freeze
	}{
		{"curl", "POST", curl, url.Values{"why": {"a rollout"}}, false, false, 200, "frozen: nothing acts", "", frozen},
		{"curl, put", "PUT", curl, url.Values{"why": {"a rollout"}}, false, false, 200, "frozen: nothing acts", "", frozen},
		{"the form", "POST", browser("Sec-Fetch-Site", "same-origin"), url.Values{"why": {"a rollout"}, "back": {"rule=digits&range=6h"}}, false, false, 303, "", "/?range=6h&rule=digits", frozen},
		{"the form of a browser that sends only Origin", "POST", browser("Origin", "http://example.com"), url.Values{"why": {"a rollout"}}, false, false, 303, "", "/", frozen},
		{"the form of an old browser", "POST", browser(), url.Values{"why": {"a rollout"}}, false, true, 303, "", "/", frozen},
		{"an old browser, another site", "POST", browser(), url.Values{"why": {"a rollout"}, "token": {"00"}}, false, false, 403, "does not come from this page", "", nil},
		{"an old browser, no token", "POST", browser(), url.Values{}, false, false, 403, "does not come from this page", "", nil},
		{"another site", "POST", browser("Sec-Fetch-Site", "cross-site", "Origin", "http://evil.example"), url.Values{}, false, true, 403, "cross-origin", "", nil},
		{"the same site, another origin", "POST", browser("Sec-Fetch-Site", "same-site"), url.Values{}, false, true, 403, "cross-origin", "", nil},
		{"another origin", "POST", browser("Origin", "http://evil.example"), url.Values{}, false, true, 403, "cross-origin", "", nil},
		{"back to elsewhere", "POST", browser("Sec-Fetch-Site", "same-origin"), url.Values{"why": {"a rollout"}, "back": {"//evil.example/?x=y"}}, false, false, 303, "", "/?%2F%2Fevil.example%2F%3Fx=y", frozen},
		{"get", "GET", curl, url.Values{}, false, false, 405, "Only POST or PUT", "", nil},
		{"delete", "DELETE", curl, url.Values{}, false, false, 405, "Only POST or PUT", "", nil},
		{"not enabled", "POST", curl, url.Values{}, true, false, 403, "Lifecycle API is not enabled: start flyball with --web.enable-lifecycle.", "", nil},
		{"control characters", "POST", curl, url.Values{"why": {"  a\n rollout\x1b[31m\u202e "}}, false, false, 200, "frozen", "", &rules.Freeze{At: noon, By: "192.0.2.1", Why: "a  rollout[31m"}},
		{"a long reason", "POST", curl, url.Values{"why": {strings.Repeat("ä", 300)}}, false, false, 200, "frozen", "", &rules.Freeze{At: noon, By: "192.0.2.1", Why: strings.Repeat("ä", 200)}},
		{"too much", "POST", curl, url.Values{"why": {strings.Repeat("x", 9000)}}, false, false, 400, "the form cannot be read", "", nil},
		{"a wrong release", "POST", curl, url.Values{"release": {"yes"}}, false, false, 400, `release is "yes": expected 1`, "", nil},
		{"a release", "POST", curl, url.Values{"release": {"1"}}, false, false, 200, "released: rules act again", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := fullPage()
			b := &brake{}
			p.Brake, p.Lifecycle = b, !tt.off
			mux := http.NewServeMux()
			p.register(mux, func() time.Time { return noon })
			if tt.page {
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
				tt.form.Set("token", regexp.MustCompile(`name="token" value="([0-9a-f]+)"`).FindStringSubmatch(w.Body.String())[1])
			}
			r := httptest.NewRequest(tt.method, "http://example.com/-/freeze", strings.NewReader(tt.form.Encode()))
			r.Header = tt.header.Clone()
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) || w.Header().Get("Location") != tt.location {
				t.Errorf("%d %q to %q", w.Code, w.Body, w.Header().Get("Location"))
			}
			if tt.code == 405 && w.Header().Get("Allow") != "POST, PUT" {
				t.Errorf("allows %q", w.Header().Get("Allow"))
			}
			if diff := cmp.Diff(tt.frozen, b.freeze); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, tt := range []struct {
		form   url.Values
		code   int
		body   string
		paused map[string]rules.Freeze
	}{
		{url.Values{"target": {"digits"}, "why": {"a move"}}, 200, "paused: nothing acts on process/digits until 2026-11-22T13:00:00Z.\n", map[string]rules.Freeze{"process/digits": {At: noon, Until: noon.Add(time.Hour), By: "192.0.2.1", Why: "a move"}}},
		{url.Values{"target": {"digits"}, "for": {"1d"}}, 200, "until 2026-11-23T12:00:00Z.\n", map[string]rules.Freeze{"process/digits": {At: noon, Until: noon.Add(24 * time.Hour), By: "192.0.2.1"}}},
		{url.Values{"target": {"digits"}, "for": {"0s"}}, 200, "paused: nothing acts on process/digits until it is resumed.\n", map[string]rules.Freeze{"process/digits": {At: noon, By: "192.0.2.1"}}},
		{url.Values{"target": {"digits"}, "release": {"1"}}, 200, "resumed: rules act on process/digits again.\n", map[string]rules.Freeze{}},
		{url.Values{"target": {"digist"}}, 404, `target "digist": no scale rule has it`, nil},
		{url.Values{"target": {"digits"}, "for": {"soon"}}, 400, `for is "soon": expected how long a target is paused, such as 2h`, nil},
		{url.Values{"target": {"digits"}, "for": {"1h"}, "release": {"1"}}, 400, `for is "1h": expected`, nil},
		{url.Values{"for": {"1h"}}, 400, `for is "1h": expected`, nil},
	} {
		b := &brake{}
		p := fullPage()
		p.Brake, p.Lifecycle = b, true
		mux := http.NewServeMux()
		p.register(mux, func() time.Time { return noon })
		r := httptest.NewRequest(http.MethodPost, "/-/freeze", strings.NewReader(tt.form.Encode()))
		r.Header = curl.Clone()
		w := httptest.NewRecorder()
		if mux.ServeHTTP(w, r); w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%v: %d %q", tt.form, w.Code, w.Body)
		}
		if diff := cmp.Diff(tt.paused, b.paused); diff != "" || b.freeze != nil {
			t.Errorf("%v: %s, frozen %+v", tt.form, diff, b.freeze)
		}
	}
	t.Run("tokens", func(t *testing.T) {
		one, other := token(), token()
		if one == other {
			t.Error("two pages have one token: a compressed page would tell it")
		}
		s := newTokens()
		if !s.valid(s.issue()) || s.valid(one) || s.valid("") || s.valid("zz") || s.valid(s.issue()[:40]) {
			t.Error("a token of this process does not hold, or one that is none does")
		}
	})
	t.Run("user", func(t *testing.T) {
		b := &brake{}
		p.Brake = b
		r := httptest.NewRequest(http.MethodPost, "/-/freeze?why=x", nil)
		r.SetBasicAuth("ada", "secret")
		if answerOf(p, r); b.freeze == nil || b.freeze.By != "ada" || b.freeze.Why != "x" {
			t.Errorf("%+v", b.freeze)
		}
	})
	t.Run("an error", func(t *testing.T) {
		p.Brake = &brake{err: errors.New("acting is stopped, but a restart will not know of it: disk full")}
		if w := answerOf(p, httptest.NewRequest(http.MethodPost, "/-/freeze", nil)); w.Code != 500 || !strings.Contains(w.Body.String(), "disk full") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
	t.Run("nothing acts", func(t *testing.T) {
		p.Brake = nil
		if w := answerOf(p, httptest.NewRequest(http.MethodPost, "/-/freeze", nil)); w.Code != 404 || !strings.Contains(w.Body.String(), "role rules") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
	t.Run("hint", func(t *testing.T) {
		p := fullPage()
		p.Lifecycle = false
		page := get(t, p, "/").Body.String()
		if !strings.Contains(page, `<button id="freeze" disabled aria-describedby="brake-hint">`) || !strings.Contains(page, "needs --web.enable-lifecycle") {
			t.Error("no hint at the flag beside a button that cannot be used")
		}
	})
}
