package web

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

// TestParts: our own lists, each with its names, none of them null.
func TestParts(t *testing.T) {
	empty := Page{Status: func(context.Context) Status { return Status{} }}
	full := Page{Status: func(context.Context) Status {
		return Status{
			Models: []Model{{Name: "digits", Ready: 2, Queued: 3, Running: 4}},
			Rules:  []Rule{{Name: "digits", Target: "process/digits", Acts: true}, {Name: "other", Target: "process/other", Last: decision()}},
			Replicas: []Replica{
				{Target: "digits", Index: 0, Address: "127.0.0.1:1", State: "ready", Since: noon, PID: 7},
				{Target: "other", Index: 0, Address: "127.0.0.1:2", State: "backoff", Since: noon, Restarts: 3, LastExit: "exit status 1"},
				{Target: "digits", Index: 1, Address: "127.0.0.1:3", State: "starting", Since: noon},
			},
		}
	}}
	for path, want := range map[string]string{
		"models": `[{"name":"digits","queued":3,"running":4,"ready":2}]`,
		"rules":  `[{"name":"digits","target":"process/digits","mode":"act","last":null},{"name":"other","target":"process/other","mode":"observe","last":{"id":"abc",`,
		"targets": `[{"target":"digits","replicas":[{"index":0,"address":"127.0.0.1:1","state":"ready","since":"2026-11-22T12:00:00Z","pid":7,"restarts":0},` +
			`{"index":1,"address":"127.0.0.1:3","state":"starting","since":"2026-11-22T12:00:00Z","pid":0,"restarts":0}]},` +
			`{"target":"other","replicas":[{"index":0,"address":"127.0.0.1:2","state":"backoff","since":"2026-11-22T12:00:00Z","pid":0,"restarts":3,"last_exit":"exit status 1"}]}]`,
	} {
		if w := get(t, full, "/api/v1/flyball/"+path); w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), `{"status":"success","data":`+want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if w := get(t, empty, "/api/v1/flyball/"+path); w.Code != http.StatusOK || w.Body.String() != `{"status":"success","data":[]}`+"\n" {
			t.Errorf("%s, of nothing: %d %s", path, w.Code, w.Body)
		}
	}
}
