package remote

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// secrets hide what must not be seen: a server, or a proxy on the way, may give back in an error what it was sent. They are
// those that the configuration has, and what was sent last from files and tokens that change.
type secrets struct {
	config  []string
	headers []string // that carry secrets

	mu           sync.Mutex // guards what follows
	last, before []string   // what was sent; both, since requests overlap when it changes
	replacer     *strings.Replacer
}

// Replace returns the text without secrets.
func (s *secrets) Replace(text string) string {
	s.mu.Lock()
	r := s.replacer
	s.mu.Unlock()
	return r.Replace(text)
}

// sent notes the secrets of a request that was sent.
func (s *secrets) sent(h http.Header) {
	var found []string
	for _, name := range s.headers {
		for _, value := range h.Values(name) {
			found = append(found, value)
			scheme, credentials, ok := strings.Cut(value, " ")
			if name != authorization || !ok {
				continue
			}
			found = append(found, credentials)
			if text, err := base64.StdEncoding.DecodeString(credentials); err == nil && strings.EqualFold(scheme, "Basic") {
				_, password, _ := strings.Cut(string(text), ":")
				found = append(found, password)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(found, s.last) {
		s.last, s.before = found, s.last
		s.replacer = hiding(slices.Concat(s.config, s.last, s.before))
	}
}

const authorization = "Authorization"

// secretsOf are the secrets of a configuration.
func secretsOf(c *Config) *secrets {
	s := &secrets{headers: []string{authorization}}
	add := func(secrets ...string) { s.config = append(s.config, secrets...) }
	for _, v := range c.Headers {
		add(v)
	}
	h := &c.HTTP
	add(string(h.BearerToken))
	if a := h.Authorization; a != nil {
		add(string(a.Credentials))
	}
	if a := h.BasicAuth; a != nil {
		add(string(a.Password))
	}
	if a := h.OAuth2; a != nil {
		add(string(a.ClientSecret), string(a.ClientCertificateKey))
	}
	if h.HTTPHeaders != nil {
		for name, header := range h.HTTPHeaders.Headers {
			if len(header.Secrets) > 0 || len(header.Files) > 0 {
				s.headers = append(s.headers, name)
			}
			for _, secret := range header.Secrets {
				add(string(secret))
			}
		}
	}
	if u := h.ProxyURL.URL; u != nil {
		if password, set := u.User.Password(); set {
			add(password)
		}
	}
	slices.Sort(s.headers)
	s.replacer = hiding(s.config)
	return s
}

// hiding replaces secrets.
func hiding(all []string) *strings.Replacer {
	all = slices.DeleteFunc(slices.Clone(all), func(s string) bool { return len(s) <= 3 }) // they would be found everywhere, and are no secrets
	// The longest first: one may be a part of another.
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, s := range all {
		pairs = append(pairs, s, "<secret>")
	}
	return strings.NewReplacer(pairs...)
}

// formatTime is a time as the API takes it: Unix seconds with their fraction.
func formatTime(at time.Time) string {
	return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', -1, 64)
}
