package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"flyball/rules/promapi"
)

const (
	// maxForwards is how many answers of Forward there are at once, of MaxBytes each at the most: what the store's own API
	// has.
	maxForwards = 4

	// maxTold is how many warnings, and how many infos, of an answer are passed on: Prometheus's own number is 10, and a
	// line each for those that were left out.
	maxTold = 22

	// hop is a header of each request. A flyball that is asked by another asks nobody else for it: two that name each
	// other, or one that names itself, would ask in a circle. It is not Via, at which nginx stops compressing.
	hop = "Flyball-Hop"
)

// Asked says whether a request is one that a Client sent.
func Asked(h http.Header) bool { return h.Get(hop) != "" }

// Forward asks what a user of Prometheus's API asks, at a path below /api/v1/, and returns the answer as it came: its data
// are not looked into, except that they are whole and JSON. Errors are *promapi.Error: those of the API elsewhere in its own
// words and with its own type. It waits for none of the turns that Query has, nor the other way around, and takes at most
// Timeout or DefaultTimeout, whichever is longer: a graph of a week is more than a rule asks for.
func (c *Client) Forward(ctx context.Context, path string, form url.Values) (*promapi.Result, error) {
	limit := max(time.Duration(c.config.Timeout), DefaultTimeout)
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result, err := c.forward(limited, path, form)
	if err == nil {
		return result, nil
	}
	told, isTold := errors.AsType[*promapi.Error](err)
	_, large := errors.AsType[largeError](err)
	kind := promapi.Unavailable
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, &promapi.Error{Type: promapi.Canceled, Err: context.Cause(ctx)}
	case isTold:
		return nil, &promapi.Error{Type: told.Type, Err: errors.New(c.secrets.Replace(told.Error()))}
	case limited.Err() != nil:
		kind, err = promapi.Timeout, fmt.Errorf("no answer within %s", limit)
		if ctx.Err() != nil {
			err = errors.New("no answer within the time that the client gives it")
		}
	case large:
		kind = promapi.Execution
	}
	return nil, &promapi.Error{Type: kind, Err: fmt.Errorf("%s://%s: %s", c.base.Scheme, c.base.Host, c.secrets.Replace(err.Error()))}
}

func (c *Client) forward(ctx context.Context, path string, form url.Values) (*promapi.Result, error) {
	if err := c.deciding.wait(time.Now()); err != nil {
		return nil, err
	}
	leave, err := c.reading.enter(ctx)
	if err != nil {
		return nil, err
	}
	var whole *promapi.Result
	err = c.exchange(ctx, path, form, func(response *http.Response) (err error) {
		if response.StatusCode/100 != 2 {
			c.reading.rest(response)
			if kind, text := c.told(response); text != "" {
				return &promapi.Error{Type: errorType(kind, response.StatusCode), Err: errors.New(text)}
			}
			return errors.New(meaning(response))
		}
		whole, err = c.whole(response)
		return err
	})
	if err != nil {
		leave()
		return nil, err
	}
	whole.Release = leave // the answer is in memory until then
	return whole, nil
}

// whole reads an answer to its end.
func (c *Client) whole(response *http.Response) (*promapi.Result, error) {
	body, err := c.accepted(response)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if response.ContentLength > 0 {
		text.Grow(int(response.ContentLength) + bytes.MinRead) // not above max_bytes: accepted has seen to it
	}
	switch _, err := text.ReadFrom(body); {
	case errors.Is(err, errTooLarge):
		return nil, c.tooLarge()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("its answer was cut off after %d bytes", text.Len())
	case err != nil:
		return nil, err
	case response.StatusCode == http.StatusNoContent:
		return &promapi.Result{}, nil
	}
	result, err := open(text.Bytes())
	if err != nil {
		if told, ok := errors.AsType[*promapi.Error](err); ok {
			return nil, told
		}
		return nil, fmt.Errorf("its answer cannot be used: %w", err)
	}
	for _, list := range [][]string{result.Warnings, result.Infos} {
		for i := range list {
			list[i] = c.secrets.Replace(list[i])
		}
	}
	return result, nil
}

// open takes an answer out of what it is wrapped in. Its data are a part of the text.
func open(text []byte) (*promapi.Result, error) {
	var (
		s                 = newScanner(bytes.NewReader(text))
		result            promapi.Result
		status, kind, why string
		partial           bool
	)
	told := func(list *[]string) error {
		return s.texts(func(text string) {
			if len(*list) < maxTold {
				*list = append(*list, text)
			}
		})
	}
	err := s.object(func(key string) (err error) {
		switch key {
		case "status":
			status, err = s.string()
		case "errorType":
			kind, err = s.string()
		case "error":
			why, err = s.string()
		case "warnings":
			err = told(&result.Warnings)
		case "infos":
			err = told(&result.Infos)
		case "isPartial": // VictoriaMetrics's cluster
			partial, err = s.bool()
		case "data":
			from := s.at
			err = s.skip(1)
			result.Data = promapi.Raw(text[from:s.at])
		default:
			err = s.skip(1)
		}
		return err
	})
	if err == nil {
		err = s.finish()
	}
	switch {
	case err != nil:
		return nil, err
	case status == "error" && why != "":
		return nil, &promapi.Error{Type: errorType(kind, http.StatusOK), Err: errors.New(why)}
	case status != "success":
		return nil, fmt.Errorf("its status is %q: expected success or error", status)
	case result.Data == nil:
		return nil, errors.New("it has no data")
	}
	if partial {
		result.Warnings = append(result.Warnings, isPartial)
	}
	return &result, nil
}

// errorType is the type of an error that another server gives: its own where it is one of Prometheus's, else what goes with
// the status. VictoriaMetrics gives the status as the type, and Mimir has types of its own.
func errorType(kind string, status int) promapi.ErrorType {
	switch t := promapi.ErrorType(kind); t {
	case promapi.BadData, promapi.Execution, promapi.Canceled, promapi.Timeout, promapi.Internal, promapi.NotFound, promapi.Unavailable:
		return t
	}
	switch status {
	case http.StatusBadRequest:
		return promapi.BadData
	case http.StatusUnprocessableEntity:
		return promapi.Execution
	case http.StatusNotFound:
		return promapi.NotFound
	case http.StatusInternalServerError:
		return promapi.Internal
	}
	return promapi.Unavailable
}

// onlyGet says whether the API has a path by GET alone.
func onlyGet(path string) bool { return path == "metadata" || strings.HasPrefix(path, "label/") }
