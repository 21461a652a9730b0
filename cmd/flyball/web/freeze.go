package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

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
}

const (
	lifecycleOff = "Lifecycle API is not enabled: start flyball with --web.enable-lifecycle.\n"
	maxWhy       = 200     // characters: a sentence
	maxFreeze    = 8 << 10 // bytes of a posted form
)

// freeze answers POST /-/freeze: with the form field release=1 it releases, else it freezes, for the reason in the field
// why. A browser is sent back to the page, others get a line of text.
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
	var err error
	answer := "frozen: nothing acts until POST /-/freeze with release=1.\n"
	switch release := r.Form.Get("release"); release {
	case "", "0":
		err = s.Brake.Freeze(who(r), line(r.Form.Get("why"), maxWhy))
	case "1":
		answer = "released: rules act again.\n"
		err = s.Brake.Release()
	default:
		Text(w, http.StatusBadRequest, fmt.Sprintf("release is %q: expected 1, or no such field to freeze.\n", line(release, 20)))
		return
	}
	if err != nil {
		Text(w, http.StatusInternalServerError, fmt.Sprintf("freeze: %s\n", err))
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
