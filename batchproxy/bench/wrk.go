package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// loop is what wrk found in a closed loop.
type loop struct {
	requests int64
	took     time.Duration
	p50      time.Duration
	faults   int64 // broken connections, time-outs and answers with a status of 400 or above
}

func (l loop) rate() float64 { return float64(l.requests) / l.took.Seconds() }

// wrkScript sends one body again and again, costs nothing an answer, and sums up in one line of numbers.
const wrkScript = `wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local f = assert(io.open(%q, "rb"))
wrk.body = f:read("*a")
f:close()
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\nsummary %%d %%d %%d %%d\n", summary.requests, summary.duration, latency:percentile(50),
    e.connect + e.read + e.write + e.status + e.timeout))
end
`

// wrk is a closed loop's generator, and where it finds its libraries.
type wrk struct {
	program string
	env     []string
	dir     string // for its scripts
}

// script prepares the sending of a body, and returns the file that says so.
func (w wrk) script(name string, body []byte) (string, error) {
	file, lua := filepath.Join(w.dir, name+".body"), filepath.Join(w.dir, name+".lua")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return "", fmt.Errorf("wrk: %w", err)
	}
	if err := os.WriteFile(lua, fmt.Appendf(nil, wrkScript, file), 0o600); err != nil {
		return "", fmt.Errorf("wrk: %w", err)
	}
	return lua, nil
}

// drive has so many clients ask the url for so long, which is whole seconds, each as soon as it is answered.
func (w wrk) drive(ctx context.Context, url, script string, clients int, duration time.Duration) (loop, error) {
	seconds := max(1, int(duration.Round(time.Second)/time.Second))
	c := exec.CommandContext(ctx, w.program, "--threads=1", fmt.Sprintf("--connections=%d", clients), fmt.Sprintf("--duration=%ds", seconds),
		"--timeout=10s", "--script="+script, url)
	c.Env = w.env
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		return loop{}, ctx.Err()
	}
	if err != nil {
		return loop{}, fmt.Errorf("wrk %s: %w\n%s", url, err, out)
	}
	l, err := parseWrk(out)
	if err != nil {
		return loop{}, fmt.Errorf("wrk %s: %w\n%s", url, err, out)
	}
	return l, nil
}

// parseWrk reads the line of numbers.
func parseWrk(out []byte) (loop, error) {
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var l loop
		var took, p50 int64
		if n, _ := fmt.Sscanf(lines.Text(), "summary %d %d %d %d", &l.requests, &took, &p50, &l.faults); n == 4 {
			if took <= 0 {
				return loop{}, fmt.Errorf("it took %d µs", took)
			}
			l.took, l.p50 = time.Duration(took)*time.Microsecond, time.Duration(p50)*time.Microsecond
			return l, nil
		}
	}
	return loop{}, fmt.Errorf("no summary in what it says")
}
