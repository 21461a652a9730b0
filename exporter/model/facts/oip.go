package facts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// ModelStatus is what a server that speaks the Open Inference Protocol (KServe v2) says of a model.
type ModelStatus struct {
	Name     string
	Versions []string // that it serves; empty where the server has none
	Platform string   // onnxruntime_onnx, sklearn
	Ready    bool     // to be asked
	Server   string   // the server's own name and version, such as triton 2.51.0
}

// What is read of a server.
const (
	maxAnswer   = 1 << 20 // the metadata of a model with a thousand tensors has 100 kB
	maxModels   = 256
	maxVersions = 64
	atOnce      = 8 // requests
)

// ErrNoList is wrapped by OIP's error where the server does not say what models it has.
var ErrNoList = errors.New("the server does not list its models, which must be named")

// OIP asks the server at base, such as http://localhost:8000, what models it has, and of each its metadata and whether it is
// ready. The protocol has no list of models: asked are GET /v2/models, as KServe's server has it, and POST /v2/repository/index, as
// Triton and MLServer have it; for a server that knows neither, and to ask of some models alone, give their names.
//
// The client decides about timeouts, TLS and redirects. Models that could be read are returned beside an error of others.
func OIP(ctx context.Context, client *http.Client, base string, names ...string) ([]ModelStatus, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("oip: %s: expected a URL such as http://localhost:8000", quote(base))
	}
	o := oip{client: client, base: u}
	var server struct{ Name, Version string }
	if err := o.get(ctx, &server, "v2"); err != nil {
		return nil, fmt.Errorf("oip: %w", err)
	}
	models := make([]ModelStatus, 0, len(names))
	for _, name := range names {
		models = append(models, ModelStatus{Name: name})
	}
	if len(names) == 0 {
		if models, err = o.list(ctx); err != nil {
			return nil, fmt.Errorf("oip: %w", err)
		}
	}
	if len(models) > maxModels {
		return nil, fmt.Errorf("oip: %s has %d models, and at most %d are read: name those that matter", base, len(models), maxModels)
	}
	faults := make([]error, len(models))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range models {
		group.Go(func() error {
			models[i].Server = strings.TrimSpace(server.Name + " " + server.Version)
			faults[i] = o.model(ctx, &models[i])
			return nil
		})
	}
	_ = group.Wait() // each has its own error
	var known []ModelStatus
	for i, m := range models {
		if faults[i] != nil {
			faults[i] = fmt.Errorf("oip: model %s: %w", quote(m.Name), faults[i])
			continue
		}
		known = append(known, m)
	}
	return known, errors.Join(faults...)
}

// oip asks one server.
type oip struct {
	client *http.Client
	base   *url.URL
}

// errStatus is an answer that is not 200.
type errStatus struct {
	method, url string
	code        int
	text        string // of the answer
}

// Error names the request and the answer.
func (e *errStatus) Error() string {
	if e.text == "" {
		return fmt.Sprintf("%s %s: status %d", e.method, e.url, e.code)
	}
	return fmt.Sprintf("%s %s: status %d: %s", e.method, e.url, e.code, e.text)
}

func (o oip) get(ctx context.Context, into any, path ...string) error {
	return o.ask(ctx, http.MethodGet, nil, into, path...)
}

// ask sends a request and reads the JSON of its answer; into may be nil to read nothing.
func (o oip) ask(ctx context.Context, method string, body []byte, into any, path ...string) error {
	for i, p := range path {
		path[i] = url.PathEscape(p)
	}
	at := o.base.JoinPath(path...)
	at.User, at.RawQuery, at.Fragment = o.base.User, "", ""
	request, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := o.client.Do(request)
	if err != nil {
		return err // which names the request, without a password
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if response.StatusCode != http.StatusOK {
		var e struct{ Error string }
		text := ""
		if json.Unmarshal(b, &e) == nil && e.Error != "" {
			text = quote(e.Error)
		}
		return &errStatus{method: method, url: at.Redacted(), code: response.StatusCode, text: text}
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, at.Redacted(), err)
	case len(b) > maxAnswer:
		return fmt.Errorf("%s %s: an answer of more than %d bytes, and no more are read", method, at.Redacted(), maxAnswer)
	case into == nil || len(bytes.TrimSpace(b)) == 0:
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s %s: expected the JSON of the Open Inference Protocol: %w", method, at.Redacted(), err)
	}
	return nil
}

// list returns the names of the server's models. Of one that the repository has in several versions, or has and does not serve,
// it is the name once.
func (o oip) list(ctx context.Context) ([]ModelStatus, error) {
	var names []string
	var listed struct{ Models []string }
	err := o.get(ctx, &listed, "v2", "models")
	if err == nil && listed.Models != nil {
		names = listed.Models
	} else if known, ok := errors.AsType[*errStatus](err); err == nil || ok && known.code < 500 {
		var index []struct{ Name string }
		if err := o.ask(ctx, http.MethodPost, []byte("{}"), &index, "v2", "repository", "index"); err != nil {
			if _, ok := errors.AsType[*errStatus](err); ok {
				return nil, fmt.Errorf("%w: %w", ErrNoList, err)
			}
			return nil, err
		}
		for _, m := range index {
			names = append(names, m.Name)
		}
	} else {
		return nil, err
	}
	slices.Sort(names)
	var models []ModelStatus
	for _, name := range slices.Compact(names) {
		if name != "" && name != "." && name != ".." { // which would be another path
			models = append(models, ModelStatus{Name: name})
		}
	}
	return models, nil
}

// model reads a model's readiness and metadata. A model that is not ready often has none, which is no error.
func (o oip) model(ctx context.Context, m *ModelStatus) error {
	if m.Name == "" || m.Name == "." || m.Name == ".." { // which would be another path
		return errors.New("no name of a model")
	}
	var ready struct{ Ready *bool }
	err := o.get(ctx, &ready, "v2", "models", m.Name, "ready")
	known, ok := errors.AsType[*errStatus](err)
	switch {
	case err == nil:
		m.Ready = ready.Ready == nil || *ready.Ready // a server may say it by the status alone
	case !ok || known.code == http.StatusUnauthorized || known.code == http.StatusForbidden:
		return err
	}
	var metadata struct {
		Versions []string
		Platform string
	}
	if err := o.get(ctx, &metadata, "v2", "models", m.Name); err != nil {
		// Triton answers 400 for a model that it has and does not serve. One that is not found is not the server's.
		if known, ok := errors.AsType[*errStatus](err); ok && !m.Ready && known.code != http.StatusNotFound {
			return nil
		}
		return err
	}
	if len(metadata.Versions) > maxVersions {
		return fmt.Errorf("%d versions, and at most %d are read", len(metadata.Versions), maxVersions)
	}
	m.Versions, m.Platform = metadata.Versions, metadata.Platform
	return nil
}
