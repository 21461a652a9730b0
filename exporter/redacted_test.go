package exporter

import (
	"strings"
	"testing"
)

// TestRedactedURL: whatever may be a token is hidden, of what is no URL too.
func TestRedactedURL(t *testing.T) {
	for text, want := range map[string]string{
		"http://127.0.0.1:8000/metrics":                    "http://127.0.0.1:8000/metrics",
		"http://host:8000":                                 "http://host:8000",
		"https://host/metrics?token=s3cret":                "https://host/metrics?token=xxxxx",
		"https://host/metrics?a=s3cret&s3cret;c=s3cret":    "https://host/metrics?a=xxxxx&xxxxx&c=xxxxx",
		"https://user:s3cret@host/metrics":                 "https://xxxxx@host/metrics",
		"https://s3cret@host:1/metrics":                    "https://xxxxx@host:1/metrics",
		"https://user:s3/cret@host/metrics?x=s3cret":       "https://xxxxx@host/metrics?x=xxxxx",
		"https://user:s3@cret@host/metrics":                "https://xxxxx@host/metrics",
		"http://host/metrics#s3cret":                       "http://host/metrics#xxxxx",
		"host:8000/metrics?key=s3cret":                     "host:8000/metrics?key=xxxxx",
		"user:s3cret@host:8000/metrics":                    "xxxxx@host:8000/metrics",
		"unix:/run/server.sock:/metrics?token=s3cret":      "unix:/run/server.sock:/metrics?token=xxxxx",
		"http://[::1]:80/%zz?token=s3cret&redirect=x@y?z=": "http://[::1]:80/%zz?token=xxxxx&redirect=xxxxx",
		"http://user:s3cret?x@host/":                       "http://xxxxx",
		"http://user:s3cret#x@host/?a=s3cret":              "http://xxxxx",
		"http://host?back=x@y":                             "http://host?back=xxxxx",
		"":                                                 "",
	} {
		got := RedactedURL(text)
		if got != want || strings.Contains(got, "s3cret") {
			t.Errorf("%s is shown as %s, want %s", text, got, want)
		}
	}
}
