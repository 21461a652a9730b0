package remote

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// secretsOf replaces what must not be seen: a server, or a proxy on the way, may give back in an error what it was sent.
func secretsOf(c *Config) *strings.Replacer {
	var all []string
	add := func(secrets ...string) {
		for _, s := range secrets {
			if len(s) > 3 { // shorter ones would be found everywhere, and are no secrets
				all = append(all, s)
			}
		}
	}
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
		for _, header := range h.HTTPHeaders.Headers {
			for _, s := range header.Secrets {
				add(string(s))
			}
		}
	}
	if u := h.ProxyURL.URL; u != nil {
		if password, set := u.User.Password(); set {
			add(password)
		}
	}
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
