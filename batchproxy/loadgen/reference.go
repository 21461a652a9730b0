package loadgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Reference asks the server at o.URL for the answer to each of o.Requests, alone and one after the other, and returns
// the requests with these answers as what is wanted. Ask the model server itself, not the proxy under test, where it can be
// reached. Of o it uses URL, Requests, Header, Timeout and Transport; the requests of o stay as they are.
//
// It fails at the first answer that is not of status 2xx, or that holds no results or (V2) another id.
func Reference(ctx context.Context, o Options) ([]Request, error) {
	if err := errors.Join(validateURL(o.URL), validateTimeout(o.Timeout)); err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	transport := o.Transport
	if transport == nil {
		own := NewTransport(1)
		defer own.CloseIdleConnections()
		transport = own
	}
	s := newSender(transport, o.Timeout)
	requests := make([]Request, len(o.Requests))
	for i, r := range o.Requests {
		want, err := s.reference(ctx, o, r, fmt.Sprintf("reference-%d", i))
		if err != nil {
			return nil, fmt.Errorf("reference: requests[%d]: %s%s: %w", i, strings.TrimSuffix(o.URL, "/"), r.Path, err)
		}
		requests[i] = r
		requests[i].Want = want
	}
	return requests, nil
}

// reference is the body of the right answer to one request.
func (s *sender) reference(ctx context.Context, o Options, r Request, id string) ([]byte, error) {
	p, err := o.prepareUnchecked(r)
	if err != nil {
		return nil, err
	}
	var buffer bytes.Buffer
	out := s.sendInto(ctx, &buffer, &p, id, time.Now())
	body := buffer.Bytes()
	if out.kind != KindOK {
		return nil, fmt.Errorf("%s: %s %s", out.kind, out.reason, out.got)
	}
	right, err := newAnswer(r.Protocol, body, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, cut(body))
	}
	// An answer agrees with itself; what can be at fault is its id.
	if fault := right.fault(body, id); fault != "" {
		return nil, errors.New(fault)
	}
	return body, nil
}
