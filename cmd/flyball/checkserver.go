package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/config"
)

// server is a running flyball as a command asks it.
type server struct {
	url        string
	httpConfig string // a file; "": neither a password nor a certificate
}

// defaultURL is where a flyball that runs all roles has its page unless told otherwise.
const defaultURL = "http://127.0.0.1:9838"

func (s *server) flags(c *kingpin.CmdClause) {
	c.Flag("url", "Of the running flyball.").Default(defaultURL).StringVar(&s.url)
	c.Flag("http.config.file", "How to reach it: password, CA and client certificate, in Prometheus's format of HTTP clients.").StringVar(&s.httpConfig)
}

// base is the server's URL, which may have been given without a scheme.
func (s *server) base() string {
	base := s.url
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	return strings.TrimSuffix(base, "/")
}

// client is how the server is reached.
func (s *server) client() (*http.Client, error) {
	if s.httpConfig == "" {
		return http.DefaultClient, nil
	}
	c, _, err := config.LoadHTTPConfigFile(s.httpConfig)
	if err != nil {
		return nil, fmt.Errorf("--http.config.file: %s: %w", s.httpConfig, err)
	}
	client, err := config.NewClientFromConfig(*c, "flyball", config.WithKeepAlivesDisabled())
	if err != nil {
		return nil, fmt.Errorf("--http.config.file: %s: %w", s.httpConfig, err)
	}
	return client, nil
}

// get asks for a path below the server's URL. The caller closes the answer's body.
func (s *server) get(ctx context.Context, path string) (*http.Response, error) {
	return s.do(ctx, http.MethodGet, path, nil)
}

// do sends a form, if there is one, to a path below the server's URL. The caller closes the answer's body.
func (s *server) do(ctx context.Context, method, path string, form url.Values) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.base()+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, exitError{exitUsage, fmt.Errorf("--url: %w", err)}
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	client, err := s.client()
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

func checkHealthyCommand(app *kingpin.Application, stdout io.Writer) command {
	return checkServerCommand(app, stdout, "healthy", "Ask a running flyball whether it is healthy: for probes that have no HTTP client of their own.", healthyPath)
}

func checkReadyCommand(app *kingpin.Application, stdout io.Writer) command {
	return checkServerCommand(app, stdout, "ready", "Ask a running flyball whether it is ready.", readyPath)
}

func checkServerCommand(app *kingpin.Application, stdout io.Writer, name, help, path string) command {
	c := checkParent(app).Command(name, help)
	var s server
	s.flags(c)
	timeout := c.Flag("timeout", "How long to wait for the answer.").Default("5s").Duration()
	return command{c.FullCommand(), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		response, err := s.get(ctx, path)
		if err != nil {
			return fmt.Errorf("check %s: %w", name, err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		if err != nil {
			return fmt.Errorf("check %s: %w", name, err)
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("check %s: %s answered %s: %s", name, s.url, response.Status, strings.TrimSpace(string(text)))
		}
		_, err = stdout.Write(append([]byte(strings.TrimSpace(string(text))), '\n'))
		return err
	}}
}
