package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"flyball/examples/modelserver/digits"
)

// The v1 protocol of TensorFlow Serving and KServe:
//
//	GET  /v1/models                            {"models":["digits"]}
//	GET  /v1/models/digits                     {"name":"digits","ready":true}
//	POST /v1/models/digits:predict             {"instances":[[64 pixels],...]} -> {"predictions":[...]}
//	POST /v1/models/digits/versions/1:predict  the same

func (s *server) v1Models(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, []byte(`{"models":[`+quote(s.opts.ModelName)+`]}`))
}

// v1Model serves what comes under a model's name. The last segment of the path is the call: NAME, or NAME:VERB, where NAME is
// the model, or its version if the path has versions in it.
func (s *server) v1Model(predict http.HandlerFunc) http.HandlerFunc {
	predict = only(http.MethodPost, predict)
	status := only(http.MethodGet, s.v1Status)
	return func(w http.ResponseWriter, r *http.Request) {
		name, verb, hasVerb := strings.Cut(r.PathValue("call"), ":")
		if r.PathValue("model") == "" {
			r.SetPathValue("model", name)
		} else {
			r.SetPathValue("version", name)
		}
		switch {
		case !hasVerb:
			status(w, r)
		case verb == "predict":
			predict(w, r)
		default:
			writeJSON(w, http.StatusNotFound, errorBody(fmt.Sprintf("call %q is not served here: there is predict", short(verb))))
		}
	}
}

func (s *server) v1Status(w http.ResponseWriter, r *http.Request) {
	if err := s.checkModel(r); err != nil {
		s.writeFault(w, err)
		return
	}
	ready := s.ready()
	body := `{"name":` + quote(s.opts.ModelName) + `,"ready":` + strconv.FormatBool(ready) + `}`
	writeJSON(w, readyCode(ready), []byte(body))
}

func (s *server) v1Predict(r *http.Request, body []byte) ([]byte, error) {
	pixels, err := decodeV1(body, s.opts.MaxBatch)
	if err != nil {
		return nil, err
	}
	out, err := s.classify(r.Context(), pixels)
	if err != nil {
		return nil, err
	}
	return encodeV1(out), nil
}

// decodeV1 reads a predict request. What it returns is n x 64 pixels from 0 to 16, n from 1 to maxBatch.
func decodeV1(body []byte, maxBatch int) ([]float32, error) {
	d := newDecoder(body)
	var pixels []float32
	given, n := false, 0
	err := d.whole(func(name string) error {
		switch name {
		case "instances":
			given = true
			return d.array(func(int) (err error) {
				if n++; n > maxBatch {
					return d.skip() // only counted, for the fault
				}
				pixels, err = d.image(pixels)
				return err
			})
		case "signature_name": // there is one signature, whatever it is called
			_, err := d.text()
			return err
		case "parameters":
			return d.object(func(string) error { return d.skip() })
		default:
			return badRequest("body: unknown member %q; there are instances, signature_name and parameters", short(name))
		}
	})
	switch {
	case err != nil:
		return nil, err
	case !given:
		return nil, badRequest("instances: missing; give an array of images, each an array of %d pixels", digits.PixelCount)
	case n == 0:
		return nil, badRequest("instances: empty; give 1 to %d images", maxBatch)
	case n > maxBatch:
		return nil, tooManyImages(int64(n), maxBatch)
	}
	return pixels, nil
}

func encodeV1(out []digits.Digit) []byte {
	b := make([]byte, 0, 20+160*len(out)) // some 150 bytes an image
	b = append(b, `{"predictions":[`...)
	for i, digit := range out {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"label":`...)
		b = strconv.AppendInt(b, int64(digit.Label), 10)
		b = append(b, `,"probabilities":[`...)
		b = appendProbabilities(b, &digit)
		b = append(b, "]}"...)
	}
	return append(b, "]}"...)
}

func appendProbabilities(b []byte, digit *digits.Digit) []byte {
	for i, p := range digit.Probabilities {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendFloat(b, p)
	}
	return b
}
