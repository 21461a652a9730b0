package remote

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"

	"flyball/rules/source"
)

// read decodes and validates a configuration as the file of flyball has it.
func read(t *testing.T, text string) (Config, error) {
	t.Helper()
	f, err := source.Parse("flyball.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	whole := struct {
		Prometheus Config `yaml:"prometheus"`
	}{DefaultConfig()}
	d := f.Decoder()
	d.Decode(&whole)
	d.Faults("prometheus", whole.Prometheus.Validate())
	return whole.Prometheus, d.Err()
}

func TestConfig(t *testing.T) {
	c, err := read(t, `
x: &tls {ca_file: ca.pem, server_name: thanos}
prometheus:
  url: https://thanos:9090/prefix/
  headers: {X-Scope-OrgID: team-a}
  params: {dedup: true, partial_response: "false", "storeMatch[]": [a, b]}
  timeout: 5s
  max_bytes: 1MiB
  max_series: 7
  basic_auth: {username: u, password_file: secrets/password}
  tls_config: *tls
  follow_redirects: false
  proxy_url: http://proxy:3128
  http_headers: {X-Key: {files: [key]}}
`[1:])
	if err == nil || !strings.Contains(err.Error(), `unknown key "x"`) {
		t.Errorf("got %v", err)
	}
	c.SetDirectory("/etc/flyball")
	if diff := cmp.Diff(map[string]any{
		"url": "https://thanos:9090/prefix/", "timeout": model.Duration(5 * time.Second), "bytes": int64(1 << 20), "series": 7,
		"params": map[string]Values{"dedup": {"true"}, "partial_response": {"false"}, "storeMatch[]": {"a", "b"}},
		"header": "team-a", "user": "u", "password": "/etc/flyball/secrets/password", "ca": "/etc/flyball/ca.pem", "name": "thanos",
		"follow": false, "proxy": "http://proxy:3128", "key": "/etc/flyball/key",
	}, map[string]any{
		"url": c.URL, "timeout": c.Timeout, "bytes": int64(c.MaxBytes), "series": c.MaxSeries, "params": c.Params,
		"header": c.Headers["X-Scope-OrgID"], "user": c.HTTP.BasicAuth.Username, "password": c.HTTP.BasicAuth.PasswordFile,
		"ca": c.HTTP.TLSConfig.CAFile, "name": c.HTTP.TLSConfig.ServerName, "follow": c.HTTP.FollowRedirects,
		"proxy": c.HTTP.ProxyURL.String(), "key": c.HTTP.HTTPHeaders.Headers["X-Key"].Files[0],
	}); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"prometheus: {}", "prometheus:", "prometheus: {url: embedded}", "{}", "prometheus: {max_series: 1}"} {
		c, err := read(t, text)
		if err != nil || c.Remote() {
			t.Errorf("%s: remote %v, %v", text, c.Remote(), err)
		}
	}
}

// TestConfigFaults: every fault with its place, and no secret in any.
func TestConfigFaults(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a typo of ours", "url: http://p\n  hedaers: {a: b}", `flyball.yml:3:3: unknown key "hedaers" (did you mean "headers"?)`},
		{"a typo of Prometheus's", "url: http://p\n  basic_aut: {username: s3cr3t}", `3:3: unknown key "basic_aut" (did you mean "basic_auth"?)`},
		{"a typo below", "url: http://p\n  basic_auth: {user: u, password: s3cr3t}", `3:16: unknown key "user"`},
		{"a typo in TLS", "url: http://p\n  tls_config:\n    ca_fiel: x", `4:5: unknown key "ca_fiel" (did you mean "ca_file"?)`},
		{"a typo in a header", "url: http://p\n  http_headers: {X-A: {value: [s3cr3t]}}", `3:24: unknown key "value" (did you mean "values"?)`},
		{"twice", "url: http://p\n  url: http://q", `3:3: key "url" is given twice`},
		{"twice, Prometheus's", "url: http://p\n  enable_http2: true\n  enable_http2: true", `4:3: key "enable_http2" is given twice`},
		{"not the kind", "url: http://p\n  basic_auth: s3cr3t", `3:15: basic_auth: it is not of the kind that belongs here`},
		{"not a duration", "url: http://p\n  timeout: s3", `3:12: timeout: "s3" is not a duration`},
		{"not true or false", "url: http://p\n  follow_redirects: s3cr3t", `3:21: follow_redirects: it is not of the kind that belongs here`},
		{"two ways", "url: http://p\n  bearer_token: s3cr3t\n  basic_auth: {username: u}", "flyball.yml:1:1: at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured"},
		{"oauth2", "url: http://p\n  oauth2: {client_secret: s3cr3t}", `oauth2 client_id must be configured`},
		{"not a mapping", "http://p", "flyball.yml:1:13: prometheus: expected keys and values, such as url: http://prometheus:9090"},
		{"a password in the URL", "url: http://user:s3cr3t@p", "2:8: url: it has a user or a password, which logs would show: give them as basic_auth"},
		{"no host", "url: http://", `2:8: url: "http://" has no host: give embedded, or the http(s) URL`},
		{"no scheme", "url: prometheus:9090", `url: "prometheus:9090" is not an http(s) URL`},
		{"not a URL", `url: "http://p\x00s3cr3t"`, `url: it is not a URL: give embedded`},
		{"a query", "url: http://p?dedup=true", "url: it has a query: give what is sent with each request as params"},
		{"a fragment", "url: http://p#x", "url: it has a fragment"},
		{"the API", "url: http://p/x/api/v1/", `has /api/v1, which every request adds: give http://p/x`},
		{"embedded", "url: embedded\n  headers: {a: b}", "3:3: headers: it has no meaning while url is embedded"},
		{"a reserved header", "url: http://p\n  headers: {authorization: s3cr3t, host: x, 'a b': c, x: \"a\\nb\"}", "headers.authorization: credentials are given by authorization, basic_auth or oauth2"},
		{"a header's value", "url: http://p\n  headers: {x: \"a\\nb\"}", "headers.x: the value has characters that no header may have"},
		{"a header's name", "url: http://p\n  headers: {'a b': c}", `headers: "a b" is not the name of a header`},
		{"a parameter", "url: http://p\n  params: {query: up}", "params.query: it is what each query sets itself"},
		{"limits", "url: http://p\n  max_bytes: 1B\n  max_series: 0\n  timeout: -1s", "3:14: max_bytes: 1 holds no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := "prometheus:\n  " + tt.text + "\n"
			if tt.name == "not a mapping" {
				text = "prometheus: " + tt.text
			}
			_, err := read(t, text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for line := range strings.Lines(err.Error()) { // the caret's line shows the file itself
				if strings.HasPrefix(line, "flyball.yml:") && strings.Contains(line, "s3cr3t") {
					t.Errorf("the fault shows a secret: %s", line)
				}
			}
		})
	}
}
