//go:build linux

package main

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flyball/rules/peertest"
)

// TestBrowser has the page of a real flyball open while load comes: the decision that follows appears on it, with charts
// out of the real API, no error and no request to elsewhere. What else must hold of the page is tested in its package.
func TestBrowser(t *testing.T) {
	chromium, node, modules := peertest.Binary(t, "chromium"), peertest.Binary(t, "node"), peertest.NodeModules(t)
	peertest.Reads(t, "web/testdata/browser/lib.mjs", "web/testdata/browser/live.mjs")
	i := newInstance(t)
	i.start()
	i.eventually(60*time.Second, "the first replica serves", func() bool { return status("http://"+i.proxy+"/v2/health/ready") == http.StatusOK })

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	const ready = "the page is open"
	cmd := exec.CommandContext(ctx, node, "web/testdata/browser/live.mjs")
	cmd.Env = append(os.Environ(), "PAGE=http://"+i.web, "CHROMIUM="+chromium, "NODE_MODULES="+modules,
		"SCREENSHOTS="+filepath.Join(modules, "..", "..", "screenshots"), "READY="+ready)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	loading, endLoad := context.WithCancel(ctx)
	defer endLoad()
	var load sync.WaitGroup
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == ready {
			// Two replicas' worth, which leaves room for a browser; for as long as the page is looked at.
			load.Go(func() { i.load(loading, "0,200\n600,200\n") })
			continue
		}
		said = append(said, lines.Text())
	}
	endLoad()
	load.Wait()
	err = cmd.Wait()
	t.Log(strings.Join(said, "\n"))
	if err != nil {
		t.Error(err)
	}
}
