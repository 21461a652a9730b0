package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/common/model"

	"flyball/rules"
)

// Brake stops all acting at once, as rules.Brake does. Decisions are made and recorded as before; none is carried out.
type Brake interface {
	// Frozen returns since when, by whom and why acting is stopped, and whether it is.
	Frozen() (rules.Freeze, bool)
	// Freeze stops acting. By and why are for those who find it stopped; both may be empty.
	Freeze(by, why string) error
	// Release lets rules act again.
	Release() error
	// Pause stops acting on one target, named as kind/name or by its rule, until a time; zero: until it is resumed. It returns
	// the targets' names, and an error that is ErrUnknownTarget where there is none of that name.
	Pause(target string, until time.Time, by, why string) ([]string, error)
	// Resume lets rules act on a target again. It returns what Pause does.
	Resume(target string) ([]string, error)
}

// ErrUnknownTarget says that no rule scales what is to be paused.
var ErrUnknownTarget = errors.New("no scale rule has it")

const (
	lifecycleOff = "Lifecycle API is not enabled: start flyball with --web.enable-lifecycle.\n"
	maxWhy       = 200     // characters: a sentence
	maxFreeze    = 8 << 10 // bytes of a posted form
)

// freeze answers POST /-/freeze: with the form field release=1 it releases, else it freezes, for the reason in the field
// why. The field target names one target to pause instead, for the duration in the field for, an hour without it. A browser is
// sent back to the page, others get a line of text.
func (s *site) freeze(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		w.Header().Set("Allow", "POST, PUT")
		Text(w, http.StatusMethodNotAllowed, "Only POST or PUT requests allowed.\n")
		return
	case !s.Lifecycle:
		Text(w, http.StatusForbidden, lifecycleOff)
		return
	case s.Brake == nil:
		Text(w, http.StatusNotFound, "this process has no rules that act: it runs without the role rules.\n")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxFreeze)
	if err := r.ParseForm(); err != nil {
		Text(w, http.StatusBadRequest, fmt.Sprintf("the form cannot be read: %s: expected why=TEXT or release=1.\n", err))
		return
	}
	if unproven(r) && !s.tokens.valid(r.PostForm.Get("token")) {
		Text(w, http.StatusForbidden, "the request does not come from this page, or from before a restart: load the page again.\n")
		return
	}
	answer, code, err := s.brake(r)
	if err != nil {
		Text(w, code, err.Error()+"\n")
		return
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		Text(w, http.StatusOK, answer)
		return
	}
	// Back to what the page showed: always this page, whatever the field says.
	back := "/"
	if q, err := url.ParseQuery(r.PostForm.Get("back")); err == nil && len(q) > 0 {
		back += "?" + q.Encode()
	}
	http.Redirect(w, r, back, http.StatusSeeOther)
}

// brake does what the form of a request asks for, and says so; with an error it returns the status.
func (s *site) brake(r *http.Request) (answer string, code int, err error) {
	release, target, length := r.Form.Get("release"), line(r.Form.Get("target"), maxWhy), r.Form.Get("for")
	if release != "" && release != "0" && release != "1" {
		return "", http.StatusBadRequest, fmt.Errorf("release is %q: expected 1, or no such field to freeze", line(release, 20))
	}
	releases, why := release == "1", line(r.Form.Get("why"), maxWhy)
	pause := time.Hour
	if length != "" {
		d, err := model.ParseDuration(length)
		if err != nil || target == "" || releases {
			return "", http.StatusBadRequest, fmt.Errorf("for is %q: expected how long a target is paused, such as 2h, or 0s until it is resumed", line(length, 20))
		}
		pause = time.Duration(d)
	}
	var until time.Time
	if pause > 0 {
		until = s.now().Add(pause).Round(time.Second)
	}
	var targets []string
	switch {
	case target == "" && releases:
		answer, err = "released: rules act again.\n", s.Brake.Release()
	case target == "":
		answer, err = "frozen: nothing acts until POST /-/freeze with release=1.\n", s.Brake.Freeze(who(r), why)
	case releases:
		targets, err = s.Brake.Resume(target)
		answer = "resumed: rules act on " + strings.Join(targets, ", ") + " again.\n"
	default:
		targets, err = s.Brake.Pause(target, until, who(r), why)
		answer = "paused: nothing acts on " + strings.Join(targets, ", ") + " until it is resumed.\n"
		if pause > 0 {
			answer = "paused: nothing acts on " + strings.Join(targets, ", ") + " until " + until.UTC().Format(time.RFC3339) + ".\n"
		}
	}
	switch {
	case errors.Is(err, ErrUnknownTarget):
		return "", http.StatusNotFound, err
	case err != nil:
		return "", http.StatusInternalServerError, fmt.Errorf("freeze: %w", err)
	}
	return answer, http.StatusOK, nil
}

// unproven says that a request comes from a browser too old to say from which site: only the page's token tells it from one
// that another site made up. A program such as curl does nothing on behalf of another site.
func unproven(r *http.Request) bool {
	if r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != "" {
		return false // http.CrossOriginProtection has judged it
	}
	return strings.HasPrefix(r.UserAgent(), "Mozilla/") || r.Header.Get("Referer") != "" || r.Header.Get("Accept-Language") != ""
}

// who is the user that the request names, whose password is checked where one is asked for, or else the address.
func who(r *http.Request) string {
	if user, _, ok := r.BasicAuth(); ok && user != "" {
		return line(user, 100)
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// line is text on one line, without what cannot be seen, and not longer than limit characters.
func line(text string, limit int) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.TrimSpace(text))
	if runes := []rune(clean); len(runes) > limit {
		return string(runes[:limit])
	}
	return clean
}

// tokens prove that a form comes from a page of this process. Each page has another one, so that a compressed page under
// TLS gives nothing away.
type tokens struct{ secret []byte }

func newTokens() tokens {
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // never fails
	return tokens{secret}
}

func (t tokens) issue() string {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce)
	return hex.EncodeToString(append(nonce, t.sum(nonce)...))
}

func (t tokens) valid(token string) bool {
	raw, err := hex.DecodeString(token)
	return err == nil && len(raw) == 16+sha256.Size && hmac.Equal(t.sum(raw[:16]), raw[16:])
}

func (t tokens) sum(nonce []byte) []byte {
	mac := hmac.New(sha256.New, t.secret)
	mac.Write(nonce)
	return mac.Sum(nil)
}
