package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestRun: the command on a free port, from the flags to the end that a signal brings.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	logs, logsIn := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"--web.listen-address=127.0.0.1:0", "--accelerator=1ms+0s", "--model.name=zahlen", "--log.format=logfmt"}, logsIn)
		logsIn.Close()
		ended <- err
	}()
	var log strings.Builder
	address := regexp.MustCompile(`msg=listening address=(\S+) model=zahlen`)
	buf := make([]byte, 4096)
	for address.FindString(log.String()) == "" || !strings.Contains(log.String(), "msg=ready") {
		n, err := logs.Read(buf)
		if err != nil {
			t.Fatalf("%v after the log:\n%s", err, log.String())
		}
		log.Write(buf[:n])
	}
	rest := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(logs) // ends when run has
		rest <- string(b)
	}()

	c := client{http: &http.Client{Transport: &http.Transport{}}, url: "http://" + address.FindStringSubmatch(log.String())[1]}
	defer c.http.CloseIdleConnections()
	if code, body := c.call(t, http.MethodPost, "/v1/models/zahlen:predict", bodyV1(heldOut(t)[:2])); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	log.WriteString(<-rest)
	if !strings.Contains(log.String(), `msg="emulated accelerator in use" fixed=1ms per_item=0s`) || !strings.Contains(log.String(), "msg=stopped") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestRunFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  []string
		want  string
		usage bool
	}{
		{name: "unknown flag", args: []string{"--acelerator=1ms+1ms"}, usage: true, want: "unknown long flag '--acelerator' (try --help)"},
		{name: "accelerator", args: []string{"--accelerator=40ms"}, usage: true, want: `"40ms" is not FIXED+PERITEM: give two durations such as 40ms+2ms (try --help)`},
		{
			name: "values", usage: true,
			args: []string{"--model.name=a/b", "--max-batch=0", "--max-body=0B", "--start-delay=-1s", "--shutdown-timeout=0s"},
			want: "--model.name: \"a/b\" is not a name: give one without slash, colon or space\n" +
				"--max-batch: 0 is not a batch size: give 1 or more\n" +
				"--max-body: 0 bytes is no limit: give 1 or more\n" +
				"--start-delay: -1s is negative: give 0s or more\n" +
				"--shutdown-timeout: 0s is no time: give more than 0s",
		},
		{name: "address", args: []string{"--web.listen-address=127.0.0.1:99999"}, want: "--web.listen-address: listen tcp: address 99999: invalid port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := run(context.Background(), tt.args, io.Discard)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
			if got := errors.As(err, new(*usageError)); got != tt.usage {
				t.Errorf("wrong usage: %v, want %v", got, tt.usage)
			}
		})
	}
}
