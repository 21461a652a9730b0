//go:build linux

// These tests look for processes in /proc.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flyball/batchproxy/loadgen"
	"flyball/rules"
)

// instance is a real flyball with a configuration, its own directory and its own ports.
type instance struct {
	t          *testing.T
	dir        string
	web, proxy string
	args       []string
	cmd        *exec.Cmd
	out        *output
	ended      chan struct{} // closed when the process has been waited for
	err        error         // of Wait, once ended
}

// output is what a process wrote so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// newInstance writes the quickstart's own files into a directory, with edits (old and new text in turn). An edit of what is in
// none of them fails the test: it would go on with another configuration than it says.
func newInstance(t *testing.T, edits ...string) *instance {
	t.Helper()
	return newInstanceOf(t, "quickstart", edits...)
}

// newInstanceOf does the same with the files of any example.
func newInstanceOf(t *testing.T, example string, edits ...string) *instance {
	t.Helper()
	i := &instance{t: t, dir: t.TempDir(), web: freePort(t), proxy: freePort(t)}
	edited := make([]bool, len(edits)/2)
	for _, name := range []string{"flyball.yml", "rules.yml"} {
		text, err := os.ReadFile(filepath.Join("../../examples", example, name))
		if err != nil {
			t.Fatal(err)
		}
		file := strings.ReplaceAll(string(text), "bin/modelserver", built.path("modelserver"))
		for e := range edited {
			from, to := edits[2*e], edits[2*e+1]
			edited[e] = edited[e] || strings.Contains(file, from)
			file = strings.ReplaceAll(file, from, to)
		}
		if err := os.WriteFile(filepath.Join(i.dir, name), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for e, done := range edited {
		if !done {
			t.Fatalf("the configuration of examples/%s has no %q, which was to become %q", example, edits[2*e], edits[2*e+1])
		}
	}
	return i
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs flyball and waits until it is ready.
func (i *instance) start(more ...string) {
	i.t.Helper()
	i.args = append([]string{
		"run", "--config.file=" + filepath.Join(i.dir, "flyball.yml"), "--storage.path=" + i.state(), "--act.enabled",
		"--decisions.print", "--web.listen-address=" + i.web, "--batchproxy.listen-address=" + i.proxy,
	}, more...)
	i.cmd = exec.Command(built.path("flyball"), i.args...)
	i.out = &output{}
	i.cmd.Stdout, i.cmd.Stderr = i.out, i.out
	if err := i.cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	i.ended = make(chan struct{})
	cmd, ended := i.cmd, i.ended
	go func() {
		defer close(ended)
		i.err = cmd.Wait()
	}()
	i.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if i.t.Failed() {
			i.t.Logf("flyball's output:\n%s", tail(i.out.String(), 8000))
		}
	})
	i.eventually(20*time.Second, "flyball is ready", func() bool { return status("http://"+i.web+"/-/ready") == http.StatusOK })
}

func tail(text string, n int) string {
	if len(text) > n {
		return "..." + text[len(text)-n:]
	}
	return text
}

func (i *instance) state() string { return filepath.Join(i.dir, "state") }

// eventually polls a condition: what other processes do cannot be waited for otherwise.
func (i *instance) eventually(limit time.Duration, what string, holds func() bool) {
	i.t.Helper()
	for end := time.Now().Add(limit); !holds(); {
		if time.Now().After(end) {
			i.t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// decisions are those that the API has, oldest first.
func (i *instance) decisions() []rules.Decision {
	i.t.Helper()
	response, err := http.Get("http://" + i.web + "/api/v1/flyball/decisions?limit=1000")
	if err != nil {
		return nil // it may be down
	}
	defer response.Body.Close()
	var answer struct{ Data []rules.Decision }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		i.t.Fatal(err)
	}
	slices.Reverse(answer.Data)
	return answer.Data
}

func (i *instance) applied(action rules.Action) (found []rules.Decision) {
	for _, d := range i.decisions() {
		if d.Result == rules.Applied && d.Action == action && !d.Start {
			found = append(found, d)
		}
	}
	return found
}

func (i *instance) held(reason rules.Reason) bool {
	return slices.ContainsFunc(i.decisions(), func(d rules.Decision) bool {
		return d.Action == rules.Hold && slices.Contains(d.Reasons, reason)
	})
}

// metric is the sum of the series of a metric on a /metrics page whose line contains all of the parts.
func metric(address, name string, parts ...string) (sum float64) {
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, name) || !strings.ContainsAny(line[len(name):len(name)+1], "{ ") ||
			slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			continue
		}
		field := strings.Fields(line)
		v, _ := strconv.ParseFloat(field[len(field)-1], 64)
		sum += v
	}
	return sum
}

// load follows a demand until its end or until the context ends, and returns the report.
func (i *instance) load(ctx context.Context, trace string) loadgen.Report {
	i.t.Helper()
	reference := i.modelserver()
	file := filepath.Join(i.dir, "trace.csv")
	if err := os.WriteFile(file, []byte(trace), 0o644); err != nil {
		i.t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, built.path("flyball"), "bench", "http://"+i.proxy, "--reference-url=http://"+reference, "--trace="+file, "-o", "json")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var report loadgen.Report
	if e := json.Unmarshal(out.Bytes(), &report); e != nil {
		i.t.Errorf("bench: %v, %v: %s", err, e, errs.String())
	}
	return report
}

// modelserver starts the example model server without an emulated accelerator.
func (i *instance) modelserver() string {
	i.t.Helper()
	address := freePort(i.t)
	cmd := exec.Command(built.path("modelserver"), "--web.listen-address="+address, "--log.level=error")
	if err := cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	i.eventually(10*time.Second, "the reference model server is ready", func() bool {
		return status("http://"+address+"/v2/health/ready") == http.StatusOK
	})
	return address
}

// descendants are the processes below one, found as long as it lives.
func descendants(pid int) (found []int) {
	entries, _ := os.ReadDir("/proc")
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (comm) state ppid: comm may hold anything, so the fields are counted from its end.
		field := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		parent, _ := strconv.Atoi(field[1])
		children[parent] = append(children[parent], child)
	}
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		found = append(found, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return found
}

func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// A zombie has ended; its parent, which may be a container's first process, has yet to say so.
	return !strings.Contains(string(text[bytes.LastIndexByte(text, ')')+1:])[:3], "Z")
}

func (i *instance) stop(s os.Signal) {
	i.t.Helper()
	pids := append(descendants(i.cmd.Process.Pid), i.cmd.Process.Pid)
	if len(pids) < 3 {
		i.t.Errorf("only %d processes: a replica has a supervisor and a server", len(pids))
	}
	if err := i.cmd.Process.Signal(s); err != nil {
		i.t.Fatal(err)
	}
	select {
	case <-i.ended:
	case <-time.After(40 * time.Second):
		i.t.Fatal("did not end")
	}
	i.eventually(15*time.Second, "no process is left", func() bool { return !slices.ContainsFunc(pids, alive) })
	for _, address := range []string{i.web, i.proxy} {
		if l, err := net.Listen("tcp", address); err != nil {
			i.t.Errorf("%s is still taken: %v", address, err)
		} else {
			l.Close()
		}
	}
}

// TestClosedLoop is the product in one test: demand rises and falls, replicas follow, and no answer is wrong or lost.
func TestClosedLoop(t *testing.T) {
	t.Parallel() // most of its time it waits
	i := newInstance(t)
	i.start()
	i.eventually(20*time.Second, "the first replica serves", func() bool { return status("http://"+i.proxy+"/v2/health/ready") == http.StatusOK })

	replicas := map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { // which replicas answered: each has images of its own
		for ctx.Err() == nil {
			for _, a := range addresses(i.web) {
				if metric(a, "modelserver_images_total") > 0 {
					replicas[a] = true
				}
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
	report := i.load(t.Context(), "0,60\n6,300\n24,40\n54,40\n")
	cancel()
	watch.Wait()

	c := report.Counts
	if c.OK < 6000 || c.Wrong != 0 || report.Lost != 0 || c.Errors() != 0 {
		t.Errorf("answers: %+v, lost %d, examples %+v", c, report.Lost, report.Examples)
	}
	ups, downs := i.applied(rules.Up), i.applied(rules.Down)
	if len(ups) == 0 || len(downs) == 0 {
		t.Fatalf("applied %d up and %d down:\n%s", len(ups), len(downs), i.out)
	}
	if len(replicas) < 2 {
		t.Errorf("only %v served: the new replica did not", replicas)
	}
	d := ups[0]
	if d.Reasons[0] != rules.AboveTarget || len(d.Signals) != 2 || d.Signals[1].Reason != rules.LowConfidence || *d.Signals[0].Value < 130 || d.Queries[0].AgeSeconds > 3 {
		t.Errorf("the first decision up: %+v", d)
	}
	if !strings.Contains(i.out.String(), fmt.Sprintf("digits  %d -> %d  applied", d.From, d.To)) {
		t.Errorf("no line for the decision in:\n%s", i.out)
	}
	for n := 1; n < len(downs); n++ {
		if gap := downs[n].Time.Sub(downs[n-1].Time); gap < 10*time.Second {
			t.Errorf("two changes down %s apart, within the cooldown", gap)
		}
	}
	t.Run("explain", func(t *testing.T) {
		for _, args := range [][]string{{"--url=http://" + i.web}, {"--journal=" + filepath.Join(i.state(), "decisions.jsonl")}} {
			out, err := exec.Command(built.path("flyball"), append([]string{"explain", "digits"}, args...)...).CombinedOutput()
			for _, want := range []string{"process/digits", "query", "model:requests:rate5s", "at 130 a replica", "stages"} {
				if err != nil || !strings.Contains(string(out), want) {
					t.Errorf("%v: %v, no %q in:\n%s", args, err, want, out)
				}
			}
		}
	})
	t.Run("page", func(t *testing.T) {
		response, err := http.Get("http://" + i.web + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		page, _ := io.ReadAll(response.Body)
		for _, want := range []string{`data-testid="mode">acting`, "AboveTarget", "process/digits", "quickstart"} {
			if !strings.Contains(string(page), want) {
				t.Errorf("no %q on the page", want)
			}
		}
	})
	t.Run("metrics", func(t *testing.T) {
		golden(t, "metrics.golden", metricNames(t, i.web))
		for name, least := range map[string]float64{
			"flyball_scale_applied_total": 2, "flyball_batchproxy_requests_total": 6000, "flyball_node_cpu_seconds_total": 1,
			"flyball_scale_desired_replicas": 1, "flyball_build_info": 1, "flyball_collector_success": 1,
			"flyball_rule_group_last_evaluation_timestamp_seconds": 1e9, "flyball_process_replicas": 1,
		} {
			if got := metric(i.web, name); got < least {
				t.Errorf("%s is %g, expected %g or more", name, got, least)
			}
		}
	})
	i.stop(os.Interrupt)
	if i.err != nil {
		t.Errorf("Ctrl-C: %v", i.err)
	}
	if files, _ := filepath.Glob(filepath.Join(os.TempDir(), "flyball-[^t]*")); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

// metricNames are the names of our own metrics on a /metrics page, with their types. Left out are those of the node, which
// depend on its kernel and have a golden file of their own, and the one that is there only while a size is held.
// What a forecast says of itself comes with the values that it has seen, some of it minutes after the start.
func metricNames(t *testing.T, address string) (names []string) {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	later := regexp.MustCompile("^flyball_forecast_(coverage_ratio|last_fit_timestamp_seconds|model_weight|season_seconds|skill_ratio)$")
	for line := range strings.Lines(string(text)) {
		field := strings.Fields(line)
		if len(field) == 4 && field[1] == "TYPE" && strings.HasPrefix(field[2], "flyball_") &&
			!strings.HasPrefix(field[2], "flyball_node_") && field[2] != "flyball_scale_blocked" && !later.MatchString(field[2]) {
			names = append(names, field[2]+" "+field[3])
		}
	}
	slices.Sort(names)
	return names
}

// addresses are those of the replicas, from the page's table.
func addresses(web string) (found []string) {
	response, err := http.Get("http://" + web + "/")
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	page, _ := io.ReadAll(response.Body)
	_, table, _ := strings.Cut(string(page), `data-testid="replicas"`)
	table, _, _ = strings.Cut(table, "</table>")
	for _, cell := range strings.Split(table, "<td>") {
		if host, port, err := net.SplitHostPort(strings.TrimSpace(strings.SplitN(cell, "<", 2)[0])); err == nil {
			found = append(found, net.JoinHostPort(host, port))
		}
	}
	return found
}

// TestKill9 ends flyball alone, in mid-cooldown. Nothing is left of it, and the next start goes on where it was.
func TestKill9(t *testing.T) {
	t.Parallel() // most of its time it waits
	i := newInstance(t, "down: {window: 10s, cooldown: 10s", "down: {window: 2s, cooldown: 25s", "target_per_replica: 130", "target_per_replica: 40")
	i.start()
	i.eventually(20*time.Second, "the first replica serves", func() bool { return status("http://"+i.proxy+"/v2/health/ready") == http.StatusOK })
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() { i.load(ctx, "0,150\n60,150\n120,150\n") })
	i.eventually(40*time.Second, "four replicas", func() bool {
		ups := i.applied(rules.Up)
		return len(ups) > 0 && ups[len(ups)-1].To >= 4
	})
	cancel()
	g.Wait()
	i.eventually(30*time.Second, "a change down", func() bool { return len(i.applied(rules.Down)) > 0 })
	before := i.applied(rules.Down)[0]
	i.stop(syscall.SIGKILL)

	i.start()
	i.eventually(20*time.Second, "the size of before", func() bool {
		return slices.ContainsFunc(i.decisions(), func(d rules.Decision) bool {
			return d.Start && d.To == before.To && d.Reasons[0] == rules.Restored
		})
	})
	i.eventually(20*time.Second, "the replicas of before serve", func() bool {
		return metric(i.web, "flyball_scale_ready_replicas") == float64(before.To)
	})
	i.eventually(40*time.Second, "the next change down", func() bool { return len(i.applied(rules.Down)) > 1 })
	if gap := i.applied(rules.Down)[1].Time.Sub(before.Time); gap < 25*time.Second {
		t.Errorf("down again after %s: the restart lost the cooldown of 25s", gap)
	}
	if !slices.ContainsFunc(i.decisions(), func(d rules.Decision) bool {
		return d.Time.After(before.Time) && slices.Contains(d.Reasons, rules.Cooldown)
	}) {
		t.Error("nothing was held by the cooldown")
	}
	if log := i.out.String(); !strings.Contains(log, "scale rules go on where they were") || !strings.Contains(log, "ended_in_order=false") {
		t.Error("the log says nothing of what was remembered over the kill")
	}
	i.stop(syscall.SIGTERM)
	if i.err != nil {
		t.Errorf("SIGTERM: %v", i.err)
	}

	i.start()
	i.eventually(20*time.Second, "it goes on where it was told to end", func() bool { return strings.Contains(i.out.String(), "ended_in_order=true") })
	i.eventually(20*time.Second, "a replica serves again", func() bool { return status("http://"+i.proxy+"/v2/health/ready") == http.StatusOK })
	i.stop(syscall.SIGTERM)
}

// replicaPIDs are the model servers below flyball: the children of its supervisors.
func (i *instance) replicaPIDs() (found []int) {
	for _, pid := range descendants(i.cmd.Process.Pid) {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.HasPrefix(line, []byte(built.path("modelserver"))) {
			found = append(found, pid)
		}
	}
	return found
}

// demand is a metric that a test sets, scraped as a target of the user's own.
type demand struct {
	value atomic.Int64
	*httptest.Server
}

func newDemand(t *testing.T, v int64) *demand {
	d := &demand{}
	d.value.Store(v)
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "wanted %d\n", d.value.Load())
	}))
	t.Cleanup(d.Close)
	return d
}

// TestReplicaFaults: whatever befalls a replica, the size is held although the demand asks for less, the reason is said,
// and when the fault is over the size follows.
func TestReplicaFaults(t *testing.T) {
	t.Parallel() // most of its time it waits
	edits := func(d *demand, query string, more ...string) []string {
		return append([]string{
			"down: {window: 10s, cooldown: 10s, policies: [{replicas: 1, period: 10s}]}", "down: {window: 1s, policies: []}",
			"startup: 2s", "startup: 5m", // what is not ready within 10 minutes is given up, which is not what is tested here
			`demand: model:requests:rate5s{model="digits"}`, query, "target_per_replica: 130", "target_per_replica: 10",
			"rule_files:", "scrape_configs: [{job_name: wanted, static_configs: [{targets: ['" + strings.TrimPrefix(d.URL, "http://") + "']}]}]\nrule_files:",
		}, more...)
	}
	const own = "demand: wanted"
	// The same demand, and a series from each replica that has to be there.
	const perReplica = "demand: {expr: '0 * modelserver_images_total + scalar(wanted) / 2', reduce: sum, expect: replicas}"
	ready := func(i *instance, n int) func() bool {
		return func() bool { return metric(i.web, "flyball_scale_ready_replicas") == float64(n) }
	}
	twoServe := func(t *testing.T, query string) (*instance, *demand) {
		t.Helper()
		d := newDemand(t, 20)
		i := newInstance(t, edits(d, query, "drain: 10s", "drain: 10s\n      replicas: 2")...)
		i.start()
		i.eventually(20*time.Second, "two serve, and that is what is in demand", func() bool {
			return ready(i, 2)() && metric(i.web, "flyball_scale_signal_value") == 20
		})
		return i, d
	}
	followed := func(t *testing.T, i *instance) {
		t.Helper()
		i.eventually(40*time.Second, "down, when the fault is over", func() bool { return len(i.applied(rules.Down)) == 1 })
	}
	t.Run("killed", func(t *testing.T) {
		i, d := twoServe(t, own)
		pids := i.replicaPIDs()
		// Killed again and again, so that it is away for as long as the test looks.
		stop := make(chan struct{})
		var killing sync.WaitGroup
		killing.Go(func() {
			for {
				for _, pid := range i.replicaPIDs() {
					if pid != pids[0] {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
		i.eventually(10*time.Second, "held while it is away", func() bool { return i.held(rules.InFlight) })
		d.value.Store(5)
		i.decides()
		i.noChange()
		close(stop)
		killing.Wait()
		followed(t, i)
	})
	t.Run("stopped, and the scrape of it fails", func(t *testing.T) {
		i, d := twoServe(t, perReplica)
		pid, stopped := i.replicaPIDs()[0], time.Now()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		i.eventually(30*time.Second, "held: a series is missing", func() bool {
			return slices.ContainsFunc(i.decisions(), func(d rules.Decision) bool {
				return d.Time.After(stopped) && d.Action == rules.Hold && slices.Contains(d.Reasons, rules.MetricMissing) && strings.Contains(d.Text, "1 series of 2 expected")
			})
		})
		d.value.Store(5)
		i.eventually(20*time.Second, "held: it is not ready", func() bool { return i.held(rules.InFlight) })
		i.decides()
		i.noChange()
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		followed(t, i)
	})
	t.Run("never ready", func(t *testing.T) {
		d := newDemand(t, 5)
		i := newInstance(t, edits(d, own, "--log.level=warn]", "--log.level=warn, --start-delay=1h]", "drain: 10s", "drain: 1s\n      replicas: 3")...)
		i.start()
		i.eventually(20*time.Second, "held: none is ready", func() bool { return i.held(rules.InFlight) && i.held(rules.BelowTarget) })
		i.decides()
		i.noChange()
	})
	t.Run("crash-looping", func(t *testing.T) {
		d := newDemand(t, 5)
		i := newInstance(t, edits(d, own, "--log.level=warn]", "--no-such-flag]", "drain: 10s", "drain: 1s\n      replicas: 3\n      restart_backoff: {min: 100ms, max: 1s}")...)
		i.start()
		i.eventually(20*time.Second, "held: none is ready", func() bool { return i.held(rules.InFlight) && i.held(rules.BelowTarget) })
		i.eventually(20*time.Second, "restarts are counted", func() bool { return metric(i.web, "flyball_process_restarts_total") >= 3 })
		i.decides()
		if !strings.Contains(i.out.String(), "unknown long flag") {
			t.Errorf("the log does not say why it ends:\n%s", tail(i.out.String(), 2000))
		}
		i.noChange()
	})
}

// TestQuickstart runs what `make run` runs, with the load, and ends it as a person does; then kills it.
func TestQuickstart(t *testing.T) {
	i := newInstance(t)
	for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		i.cmd = exec.Command(built.path("quickstart"), "--bin="+built.dir, "--config.file="+filepath.Join(i.dir, "flyball.yml"),
			"--demand=../../examples/quickstart/demand.csv", "--storage.path="+i.state(), "--days=1",
			"--web.listen-address="+i.web, "--batchproxy.listen-address="+i.proxy)
		i.out = &output{}
		i.cmd.Stdout, i.cmd.Stderr = i.out, i.out
		if err := i.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmd, ended := i.cmd, make(chan struct{})
		i.ended = ended
		go func() {
			defer close(ended)
			i.err = cmd.Wait()
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
		})
		i.eventually(40*time.Second, "requests are answered", func() bool { return metric(i.web, "flyball_batchproxy_requests_total") > 100 })
		i.stop(end)
		if end == syscall.SIGKILL {
			break
		}
		if i.err != nil {
			t.Errorf("Ctrl-C: %v\n%s", i.err, i.out)
		}
		for _, want := range []string{"flyball 0.1.0   page http://" + i.web, "load   real LLM demand", " 0 wrong, 0 lost, p50 "} {
			if !strings.Contains(i.out.String(), want) {
				t.Errorf("no %q in:\n%s", want, i.out)
			}
		}
		if strings.Contains(i.out.String(), "refused") {
			t.Errorf("requests were turned away at the end:\n%s", i.out)
		}
	}
}

// TestSignals: a hangup reloads, one whose configuration is wrong changes nothing, and an interrupt ends it.
func TestSignals(t *testing.T) {
	i := newInstance(t)
	i.start()
	i.eventually(20*time.Second, "a replica serves", func() bool { return len(i.replicaPIDs()) == 1 })
	file := filepath.Join(i.dir, "flyball.yml")
	right, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ text, told string }{
		{"rule_filez: []\n" + string(right), "not reloaded, everything stays as it was"},
		{string(right), "msg=reloaded"},
	} {
		if err := os.WriteFile(file, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := i.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		i.eventually(10*time.Second, step.told, func() bool { return strings.Contains(i.out.String(), step.told) })
		if status("http://"+i.web+"/-/ready") != http.StatusOK || len(i.replicaPIDs()) != 1 {
			t.Errorf("after %q: not ready", step.told)
		}
	}
	i.stop(os.Interrupt)
}

// decides waits for five more evaluations of the rule, a second apart: several of its windows, enough to go down in, were
// it allowed.
func (i *instance) decides() {
	i.t.Helper()
	until := metric(i.web, "flyball_scale_decisions_total") + 5
	i.eventually(30*time.Second, "five more decisions", func() bool { return metric(i.web, "flyball_scale_decisions_total") >= until })
}

// noChange says that no size was changed since the start.
func (i *instance) noChange() {
	i.t.Helper()
	if n := len(i.applied(rules.Up)) + len(i.applied(rules.Down)); n > 0 {
		i.t.Errorf("%d changes:\n%s", n, i.out)
	}
}

// TestSecondInstance: a second flyball stops before it touches anything, and says why.
func TestSecondInstance(t *testing.T) {
	i := newInstance(t)
	i.start()
	second := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, built.path("flyball"), append([]string{"run", "--config.file=" + filepath.Join(i.dir, "flyball.yml")}, args...)...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%v: %v", args, err)
		}
		return string(out)
	}
	free := func() string { return freePort(t) }
	dir := filepath.Join(i.state(), "tsdb")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{
			[]string{"--web.listen-address=" + i.web, "--storage.path=" + t.TempDir()},
			"flyball: listen on " + i.web + ": the address is in use: is flyball running already? --web.listen-address gives another\n",
		},
		{
			[]string{"--web.listen-address=" + free(), "--batchproxy.listen-address=" + i.proxy, "--storage.path=" + t.TempDir()},
			"flyball: listen on " + i.proxy + ": the address is in use: is flyball running already? --batchproxy.listen-address gives another\n",
		},
		{
			[]string{"--web.listen-address=" + free(), "--batchproxy.listen-address=" + free(), "--storage.path=" + i.state()},
			"flyball: data directory " + dir + " is in use by another process (lock held): stop it, or give another directory by storage.path or --storage.path; the lock is " + dir + "/lock\n",
		},
	} {
		if got := second(tt.args...); !strings.Contains("\n"+got, "\n"+tt.want) {
			t.Errorf("%v:\n got %s\nwant %s", tt.args, got, tt.want)
		}
	}
}

// send posts a form to the page, and returns the code and the answer.
func (i *instance) send(method, path string, form url.Values, header ...string) (int, string) {
	i.t.Helper()
	request, err := http.NewRequest(method, "http://"+i.web+path, strings.NewReader(form.Encode()))
	if err != nil {
		i.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for h := 0; h+1 < len(header); h += 2 {
		request.Header.Set(header[h], header[h+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		i.t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

// TestFreeze stops all acting by HTTP: what would have been done is decided and recorded, nothing is done, whatever happens to
// the process, until it is released.
func TestFreeze(t *testing.T) {
	t.Parallel() // most of its time it waits
	d := newDemand(t, 5)
	i := newInstance(t, `demand: model:requests:rate5s{model="digits"}`, "demand: wanted", "target_per_replica: 130", "target_per_replica: 10",
		"rule_files:", "scrape_configs: [{job_name: wanted, static_configs: [{targets: ['"+strings.TrimPrefix(d.URL, "http://")+"']}]}]\nrule_files:")
	serves := func(n int) {
		t.Helper()
		i.eventually(30*time.Second, fmt.Sprintf("%d serve", n), func() bool { return metric(i.web, "flyball_scale_ready_replicas") == float64(n) })
	}
	expect := func(method string, form url.Values, code int, text string, header ...string) {
		t.Helper()
		if got, answer := i.send(method, "/-/freeze", form, header...); got != code || !strings.Contains(answer, text) {
			t.Errorf("%s %v %v: %d %s, want %d %s", method, form, header, got, answer, code, text)
		}
	}
	paused := func(n float64) {
		t.Helper()
		if got := metric(i.web, "flyball_scale_paused"); got != n {
			t.Errorf("flyball_scale_paused is %g, want %g", got, n)
		}
	}
	// wouldGrow waits for the decision to grow that is not carried out.
	wouldGrow := func(since time.Time, to int) {
		t.Helper()
		i.eventually(30*time.Second, "a decision that is not carried out", func() bool {
			return slices.ContainsFunc(i.decisions(), func(d rules.Decision) bool {
				return d.Time.After(since) && d.Action == rules.Up && d.To == to && d.Result == rules.Observed &&
					slices.Contains(d.Reasons, rules.Paused) && strings.HasSuffix(d.Text, ", frozen by 127.0.0.1")
			})
		})
	}
	why := url.Values{"why": {"a bad rollout"}}
	release := url.Values{"release": {"1"}}

	i.start()
	serves(1)
	expect("POST", why, http.StatusForbidden, "Lifecycle API is not enabled")
	expect("GET", why, http.StatusMethodNotAllowed, "Only POST or PUT requests allowed")
	paused(0)
	i.stop(syscall.SIGTERM)

	i.start("--web.enable-lifecycle")
	serves(1)
	expect("GET", why, http.StatusMethodNotAllowed, "Only POST or PUT requests allowed")
	expect("POST", why, http.StatusForbidden, "cross-origin", "Sec-Fetch-Site", "cross-site")
	paused(0)
	expect("POST", why, http.StatusOK, "frozen: nothing acts until POST /-/freeze with release=1.")
	paused(1)
	frozen := time.Now()
	d.value.Store(25)
	wouldGrow(frozen, 3)
	if !strings.Contains(i.out.String(), `why="a bad rollout"`) {
		t.Errorf("the log does not say why:\n%s", i.out)
	}
	// Neither a reload nor a restart, an orderly one or not, lets it go.
	if code, text := i.send("POST", "/-/reload", nil); code != http.StatusOK {
		t.Errorf("reload: %d %s", code, text)
	}
	reloaded := time.Now()
	i.decides()
	paused(1)
	i.noChange()
	for _, end := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		i.stop(end)
		restarted := time.Now()
		i.start("--web.enable-lifecycle")
		paused(1)
		serves(1)
		wouldGrow(restarted, 3)
		i.noChange()
	}
	expect("GET", release, http.StatusMethodNotAllowed, "Only POST or PUT requests allowed")
	expect("POST", release, http.StatusForbidden, "cross-origin", "Origin", "http://evil.example")
	expect("POST", url.Values{"release": {"yes"}}, http.StatusBadRequest, `release is "yes": expected 1`)
	paused(1)
	expect("POST", release, http.StatusOK, "released: rules act again.")
	paused(0)
	i.eventually(30*time.Second, "it grows", func() bool { return len(i.applied(rules.Up)) == 1 })
	if up := i.applied(rules.Up)[0]; up.To != 3 || up.Time.Before(reloaded) {
		t.Errorf("it went %d -> %d at %s", up.From, up.To, up.Time)
	}
	serves(3)

	// One target alone, by the commands.
	command := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command(built.path("flyball"), append(args, "--url="+i.web)...).CombinedOutput()
		if !strings.Contains(string(out), want) {
			t.Errorf("flyball %v: %v: %s, want %s", args, err, out, want)
		}
	}
	command(`target "digist": no scale rule has it (did you mean "digits"?)`, "pause", "digist")
	command("paused: nothing acts on process/digits until 2", "pause", "digits", "--for=2h", "--why=a move")
	d.value.Store(35)
	i.eventually(30*time.Second, "a decision that is not carried out", func() bool {
		return slices.ContainsFunc(i.decisions(), func(d rules.Decision) bool {
			return d.To == 4 && d.Result == rules.Observed && strings.Contains(d.Text, ", paused by 127.0.0.1 until ")
		})
	})
	if code, text := i.send("GET", "/api/v1/flyball/rules", nil); code != http.StatusOK || !strings.Contains(text, `"why":"a move"`) {
		t.Errorf("the API does not say that it is paused: %d %s", code, text)
	}
	command("resumed: rules act on process/digits again", "resume", "process/digits")
	i.eventually(30*time.Second, "it grows", func() bool { return len(i.applied(rules.Up)) == 2 })
	command("frozen: nothing acts", "freeze", "--why=a bad rollout")
	paused(1)
	command("released: rules act again", "resume")
	paused(0)
	i.stop(syscall.SIGTERM)

	i.start("--web.enable-lifecycle", "--act.targets=process/other|aws/.*")
	paused(0)
	serves(4)
	d.value.Store(45)
	i.eventually(30*time.Second, "a decision that is not carried out", func() bool {
		return slices.ContainsFunc(i.decisions(), func(d rules.Decision) bool {
			return d.To == 5 && d.Result == rules.Observed && slices.Contains(d.Reasons, rules.DryRun)
		})
	})
	i.stop(syscall.SIGTERM)
}

// TestStopUnderLoad ends flyball while clients ask as fast as they can. All that a model has served is answered, rightly; what
// is not taken any more is refused in so many words, and after that nobody is there.
func TestStopUnderLoad(t *testing.T) {
	for _, end := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(end.String(), func(t *testing.T) {
			// A model that knows what it has served, beside the one whose replicas end too.
			var served sync.Map
			model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var request struct{ Instances []int }
				if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
					t.Errorf("the model was asked: %v", err)
				}
				for _, id := range request.Instances {
					served.Store(id, true)
				}
				time.Sleep(20 * time.Millisecond) // its work
				_ = json.NewEncoder(w).Encode(map[string]any{"predictions": request.Instances})
			}))
			defer model.Close()
			i := newInstance(t, "drain: 10s", "drain: 10s\n      replicas: 2", "  models:\n", "  models:\n  - {name: known, upstreams: [{url: '"+model.URL+"'}]}\n")
			i.start()
			i.eventually(30*time.Second, "the replicas serve", func() bool { return status("http://"+i.proxy+"/v2/health/ready") == http.StatusOK })
			var (
				clients        sync.WaitGroup
				ids            atomic.Int64
				answered       sync.Map
				right, refused [2]atomic.Int64
			)
			pixels := `{"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [` + strings.TrimSuffix(strings.Repeat("0,", 64), ",") + `]}]}`
			// ask is one request; it returns false when flyball is there no more.
			ask := func(c *http.Client, kind int) bool {
				path, body, want := "/v2/models/digits/infer", pixels, `"name":"label"`
				id := int(ids.Add(1))
				if kind == 1 {
					path, body, want = "/v1/models/known:predict", fmt.Sprintf(`{"instances": [%d]}`, id), fmt.Sprintf(`{"predictions":[%d]}`, id)
				}
				response, err := c.Post("http://"+i.proxy+path, "application/json", strings.NewReader(body))
				if err != nil {
					// A connection that closes while nothing is on it, or before it is accepted, is no answer to anything; whether
					// something was lost on it, the model knows.
					return !errors.Is(err, syscall.ECONNREFUSED)
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				switch {
				case err != nil:
					t.Errorf("an answer broke off: %v", err)
				case response.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), "the proxy is shutting down"):
					if response.Header.Get("Retry-After") == "" || !response.Close {
						t.Errorf("refused without a word on when and where to ask again: %v", response.Header)
					}
					refused[kind].Add(1)
				case response.StatusCode != http.StatusOK || !strings.Contains(strings.ReplaceAll(string(text), " ", ""), want):
					t.Errorf("%s: %d %s", path, response.StatusCode, text)
				default:
					answered.Store(id, true)
					right[kind].Add(1)
				}
				return true
			}
			for n := range 16 {
				clients.Go(func() {
					c := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
					defer c.CloseIdleConnections()
					for ask(c, n%2) && !t.Failed() {
					}
				})
			}
			i.eventually(30*time.Second, "answers", func() bool { return right[0].Load() > 100 && right[1].Load() > 100 })
			i.stop(end)
			clients.Wait()
			if i.err != nil {
				t.Errorf("it ended with %v", i.err)
			}
			served.Range(func(id, _ any) bool {
				if _, ok := answered.Load(id); !ok {
					t.Errorf("request %d was served, and its client did not hear of it", id)
				}
				return true
			})
			if strings.Contains(i.out.String(), "gave up") {
				t.Errorf("requests were given up:\n%s", i.out)
			}
			t.Logf("replicas: %d answered, %d refused; the other model: %d, %d", right[0].Load(), refused[0].Load(), right[1].Load(), refused[1].Load())
		})
	}
}
