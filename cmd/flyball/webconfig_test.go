package main

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCheckWebConfig(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.issue(dir, "server", time.Date(2099, 1, 2, 0, 0, 0, 0, time.UTC))
	ca.issue(dir, "old", time.Now().Add(-time.Minute))
	ca.issue(dir, "other", time.Time{})
	write(t, filepath.Join(dir, "empty.crt"), "nothing\n")
	const (
		hash = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
		pair = "cert_file: server.crt, key_file: server.key"
	)
	path := filepath.Join(dir, "web.yml")
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "ok: no TLS, 0 users"},
		{"TLS", "tls_server_config: {" + pair + "}", "ok: TLS until 2099-01-02, client certificates: none asked of clients, 0 users"},
		{
			"all", "tls_server_config: {" + pair + ", client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert, min_version: TLS13}\n" +
				"http_server_config: {http2: true, headers: {X-Frame-Options: deny}}\nrate_limit: {interval: 1.5s, burst: 3}\nbasic_auth_users:\n  alice: " + hash + "\n",
			"ok: TLS until 2099-01-02, client certificates: RequireAndVerifyClientCert, 1 user",
		},
		{"a typo", "tls_server_config:\n  cert_fil: server.crt\n", `:2:3: unknown key "cert_fil" (did you mean "cert_file"?)`},
		{"not YAML", "tls_server_config: [\n", ":1:1: YAML: did not find expected node content"},
		{"no key", "tls_server_config: {cert_file: server.crt}", ":1:1: tls_server_config: missing one of key or key_file"},
		{"nothing in it", "tls_server_config: {min_version: TLS12}", ":1:1: tls_server_config: neither a certificate nor a key: give cert_file and key_file, or leave it out"},
		{"no such file", "tls_server_config:\n  cert_file: none.crt\n  key_file: server.key\n", ":2:14: tls_server_config: read cert_file (" + dir + "/none.crt): open "},
		{"not the key of the certificate", "tls_server_config:\n  cert_file: server.crt\n  key_file: other.key\n", ":3:13: tls_server_config: load X509KeyPair: tls: private key does not match public key"},
		{"no authority in the file", "tls_server_config:\n  {" + pair + ", client_ca_file: empty.crt, client_auth_type: RequireAndVerifyClientCert}", ":2:65: client_ca_file: no certificate in it: expected one or more in PEM"},
		{"no authority", "tls_server_config:\n  {" + pair + ", client_auth_type: RequireAndVerifyClientCert}", ":2:67: client_auth_type: RequireAndVerifyClientCert verifies certificates, but there is no client_ca_file"},
		{"no such policy", "tls_server_config:\n  {" + pair + ", client_auth_type: Maybe}", ":2:67: tls_server_config: invalid ClientAuth: Maybe"},
		{"no such version", "tls_server_config:\n  {" + pair + ", min_version: TLS9}", `:2:62: min_version: "TLS9": unknown TLS version: TLS9`},
		{"no version left", "tls_server_config:\n  {" + pair + ", min_version: TLS13, max_version: TLS12}", ":2:62: min_version: above max_version: no client could connect"},
		{"a password in clear", "basic_auth_users:\n  alice: hunter2-in-clear\n", ":2:10: basic_auth_users.alice: the value is not a bcrypt hash of a password: `htpasswd -nBC 10 alice` makes one"},
		{"a list of users", "basic_auth_users: [hunter2-in-clear]\n", ":1:19: basic_auth_users: expected names and bcrypt hashes of passwords"},
		{"a typo before secrets", "basic_auth_user: {alice: hunter2-in-clear}\n", `:1:1: unknown key "basic_auth_user" (did you mean "basic_auth_users"?)`},
		{"a header that cannot be set", "http_server_config:\n  headers: {Server: x}\n", `:2:3: HTTP header "Server" can not be configured`},
		{"a duration", "rate_limit: {interval: soon}", `:1:24: interval: "soon": time: invalid duration "soon"`},
		{"expired", "tls_server_config: {cert_file: old.crt, key_file: old.key}", "flyball: the certificate is valid from "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(t, path, tt.text)
			var stdout, stderr bytes.Buffer
			code := execute(t.Context(), []string{"check", "web-config", path}, &stdout, &stderr)
			got := stdout.String() + stderr.String()
			if ok := strings.HasPrefix(tt.want, "ok: "); ok != (code == exitOK) || !strings.Contains(got, tt.want) ||
				ok && got != path+": "+tt.want+"\n" {
				t.Errorf("exit %d: %s\nwant %s", code, got, tt.want)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("a secret is shown: %s", got)
			}
		})
	}
	// The same is said when flyball starts, before it takes anything.
	write(t, path, "basic_auth_users:\n  alice: hunter2-in-clear\n")
	_, err := newApp(&loaded{Config: DefaultConfig()}, &runOptions{log: slog.New(slog.DiscardHandler), roles: []string{roleRules}, webListen: []string{"127.0.0.1:0"}, webSecured: path})
	if err == nil || !strings.Contains(err.Error(), "web.yml:2:10: basic_auth_users.alice") {
		t.Errorf("got %v", err)
	}
}

// TestCheckServer asks a flyball with TLS and passwords as a probe does.
func TestCheckServer(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.issue(dir, "server", time.Time{})
	ca.issue(dir, "client", time.Time{})
	write(t, filepath.Join(dir, "web.yml"),
		"tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}\n")
	write(t, filepath.Join(dir, "http.yml"), "tls_config: {ca_file: ca.crt, cert_file: client.crt, key_file: client.key}\n")
	a := runApp(t, dir, "", func(o *runOptions) { o.webSecured = filepath.Join(dir, "web.yml") })
	check := func(want int, text string, args ...string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code := execute(t.Context(), args, &stdout, &stderr)
		if code != want || !strings.Contains(stdout.String()+stderr.String(), text) {
			t.Errorf("%v: exit %d: %s%s", args, code, &stdout, &stderr)
		}
	}
	file := "--http.config.file=" + filepath.Join(dir, "http.yml")
	check(exitOK, "flyball is ready.\n", "check", "ready", "--url="+a.pageURL(), file)
	check(exitOK, "flyball is healthy.\n", "check", "healthy", "--url="+a.pageURL(), file)
	check(exitFailed, "no decision of that rule", "explain", "digits", "--url="+a.pageURL(), file)
	check(exitFailed, "certificate", "check", "ready", "--url="+a.pageURL())
	check(exitFailed, "answered 404", "check", "ready", "--url="+a.pageURL()+"x/", file)
	check(exitFailed, "http.yml", "check", "ready", "--url="+a.pageURL(), "--http.config.file="+filepath.Join(dir, "none/http.yml"))
	a.phase.Store(stopping)
	check(exitFailed, "flyball is stopping.\n", "check", "ready", "--url="+a.pageURL(), file)
}
