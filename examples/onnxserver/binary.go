package main

import (
	"bytes"
	"net/http"
	"strconv"
)

// The binary tensor extension: the header Inference-Header-Content-Length says where the JSON ends, and the elements of the
// tensors that have a binary_data_size follow it, in the order of the tensors, little-endian.

const jsonLength = "Inference-Header-Content-Length"

// splitBinary splits a body into its JSON and the bytes that follow it.
func splitBinary(h http.Header, body []byte) (text, blobs []byte, err error) {
	length := h.Get(jsonLength)
	if length == "" {
		return body, nil, nil
	}
	n, err := strconv.ParseUint(length, 10, 31)
	if err != nil || n > uint64(len(body)) {
		return nil, nil, badRequest("header %s: %q; give the length of the JSON, at most that of the body, %d", jsonLength, short(length), len(body))
	}
	return body[:n], body[n:], nil
}

// blobReader hands out the bytes after the JSON.
type blobReader struct {
	left []byte
}

// next takes the elements of one tensor; they are a copy.
func (r *blobReader) next(dt datatype, size, elements int64, place string) ([]byte, error) {
	if want := elements * int64(dt.size()); size != want {
		return nil, badRequest("%s.parameters.binary_data_size: %d; %d elements of %s have %d", place, size, elements, dt, want)
	}
	if size > int64(len(r.left)) {
		return nil, badRequest("%s.parameters.binary_data_size: %d; only %d bytes are left after the JSON", place, size, len(r.left))
	}
	data := bytes.Clone(r.left[:size])
	r.left = r.left[size:]
	if dt == typeBool {
		for i, b := range data {
			if b > 1 {
				return nil, badRequest("%s: byte %d is %d; a BOOL is 0 or 1", place, i, b)
			}
		}
	}
	return data, nil
}

// reply is the answer to an inference: JSON, and the bytes of the outputs that are binary.
type reply struct {
	json  []byte
	blobs [][]byte
}

// write sends the reply as 200.
func (a reply) write(w http.ResponseWriter) {
	if a.blobs == nil {
		writeJSON(w, http.StatusOK, a.json)
		return
	}
	length := len(a.json)
	for _, b := range a.blobs {
		length += len(b)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(jsonLength, strconv.Itoa(len(a.json)))
	w.Header().Set("Content-Length", strconv.Itoa(length))
	_, _ = w.Write(a.json) // an error here means that the client has gone
	for _, b := range a.blobs {
		_, _ = w.Write(b)
	}
}
