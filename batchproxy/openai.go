package batchproxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"flyball/batchproxy/protocol"
)

// serveByBody serves a path of OpenAI's, where the body names the model. Embeddings are read whole and may be batched;
// of others no more is read than it takes to find the name, and every byte is passed on as it came.
func (p *Proxy) serveByBody(w http.ResponseWriter, r *http.Request, to route, start time.Time, entered bool) {
	f := openAIForm
	if !entered {
		if m := p.only(); m != nil {
			m.serve(w, r, to.label, start, false, nil)
			return
		}
		writeDraining(w, f)
		return
	}
	if r.Method == http.MethodGet && r.URL.Path == "/v1/models" && len(p.names) != 1 {
		p.writeModels(w)
		return
	}
	if r.Method != http.MethodPost || encoded(r) {
		// Nothing to read a name in: a list, a stored answer, a file.
		m := p.only()
		switch {
		case m != nil:
			m.serve(w, r, to.label, start, true, func(d *demand, counted bool) (int, *demand) {
				if to.protocol != nil && counted {
					return refuseEncoded(w, r, f), d
				}
				return m.pass(w, r, d, counted), d
			})
		case encoded(r):
			refuseEncoded(w, r, f)
		default:
			f.writeError(w, http.StatusNotFound, fmt.Sprintf("%s %s: names no model, and there are several: %s", r.Method, r.URL.Path, strings.Join(p.servedNames(), ", ")))
		}
		return
	}
	if to.protocol != nil {
		body, err := p.read(w, r)
		if err != nil {
			p.unread(w, r, err, p.onlyName(), f)
			return
		}
		name, err := protocol.Model(body.b, false)
		m := p.byName(w, name, err)
		if m == nil {
			body.release()
			return
		}
		p.spansOf(r).name(name)
		m.serve(w, r, to.label, start, true, func(d *demand, _ bool) (int, *demand) {
			return m.inferBody(w, r, to.protocol, d, body, nil, time.Now())
		})
		return
	}
	if limit := int64(p.config.Limits.MaxBody); r.ContentLength > limit {
		f.writeError(w, http.StatusRequestEntityTooLarge, tooLarge("body", limit))
		return
	}
	begun := &buffer{from: &p.buffers} // not one of the pool: a transport may read it after the answer
	defer func() { p.buffers.held.Add(-begun.reserved) }()
	name, err := p.peek(w, r, begun)
	if _, wrong := errors.AsType[*protocol.Fault](err); err != nil && !wrong {
		p.unread(w, r, err, p.onlyName(), f)
		return
	}
	m := p.only()
	if err == nil || m == nil { // what is no JSON, such as a file, can be for the only model that there is
		m = p.byName(w, name, err)
	}
	if m == nil {
		return
	}
	p.spansOf(r).name(name)
	m.serve(w, r, to.label, start, true, func(d *demand, counted bool) (int, *demand) { return m.pass(w, r, d, counted), d })
}

// firstPeek is how much of a body is read at first for the model's name, which most clients send before all else.
const firstPeek = 4 << 10

// peek reads as much of the body as it takes to find the model's name, and gives the request a body that begins with it. A
// *protocol.Fault says that there is no name to be found.
func (p *Proxy) peek(w http.ResponseWriter, r *http.Request, begun *buffer) (string, error) {
	limits := p.config.Limits
	rest := http.MaxBytesReader(w, r.Body, int64(limits.MaxBody))
	defer func() {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(begun.b), rest), rest}
	}()
	for room := firstPeek; ; room *= 2 {
		if err := begun.reserve(int64(room-cap(begun.b)), int64(limits.MaxInflightBytes)); err != nil {
			return "", err
		}
		begun.b = append(make([]byte, 0, room), begun.b...)
		for len(begun.b) < room {
			n, err := rest.Read(begun.b[len(begun.b):room])
			begun.b = begun.b[:len(begun.b)+n]
			if errors.Is(err, io.EOF) {
				return protocol.Model(begun.b, false)
			}
			if err != nil {
				return "", err
			}
			if room == firstPeek || len(begun.b) == room { // not after each of many small pieces
				name, err := protocol.Model(begun.b, true)
				if !errors.Is(err, protocol.ErrMore) && (err != nil || name != "") {
					return name, err
				}
			}
		}
	}
}

// byName is the model of a name that was read with this error, or nil, after the client has been told why.
func (p *Proxy) byName(w http.ResponseWriter, name string, err error) *model {
	switch m := p.served[name]; {
	case err != nil:
		param := ""
		if fault, ok := errors.AsType[*protocol.Fault](err); ok {
			param = fault.Where
		}
		openAIForm.writeFault(w, http.StatusBadRequest, err.Error(), param, "")
	case m != nil:
		return m
	case p.served[everyName] != nil:
		return p.served[everyName]
	case name == "" && p.only() != nil:
		return p.only()
	case name == "":
		openAIForm.writeFault(w, http.StatusBadRequest, "model: missing: give one of "+strings.Join(p.servedNames(), ", "), "model", "")
	default:
		openAIForm.writeFault(w, http.StatusNotFound, unknownModel(name, p.servedNames()), "model", "model_not_found")
	}
	return nil
}

// only is the model, where there is one alone.
func (p *Proxy) only() *model {
	if len(p.names) == 1 {
		return p.models[p.names[0]]
	}
	return nil
}

// onlyName is the name of the only model, and empty where there are several.
func (p *Proxy) onlyName() string {
	if len(p.names) == 1 {
		return p.names[0]
	}
	return ""
}

// servedNames are the names that models are called by in a body, sorted.
func (p *Proxy) servedNames() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.served)), func(name string) bool { return name == everyName })
}

// writeModels lists the models for clients of OpenAI's protocol, and in `models` for those of KServe's version 1, which has
// the same path.
func (p *Proxy) writeModels(w http.ResponseWriter) {
	type entry struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	list := struct {
		Object string   `json:"object"`
		Data   []entry  `json:"data"`
		Models []string `json:"models"`
	}{Object: "list", Data: []entry{}, Models: p.names}
	for _, name := range p.servedNames() {
		list.Data = append(list.Data, entry{name, "model", p.created.Unix(), "flyball"})
	}
	text, err := json.Marshal(list)
	if err != nil { // names and numbers always can be
		openAIForm.writeError(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, string(text))
}
