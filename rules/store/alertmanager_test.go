package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"flyball/rules/peertest"
)

// These tests send to a real Alertmanager, and look at what it then sends to a webhook.

// message is what an Alertmanager sends to a webhook.
type message struct {
	Version string
	Status  string
	Alerts  []struct {
		Status       string
		Labels       map[string]string
		Annotations  map[string]string
		EndsAt       time.Time
		GeneratorURL string
	}
}

// webhook takes note of the messages.
type webhook struct {
	*httptest.Server
	mu       sync.Mutex // guards messages
	messages []message
}

func newWebhook(t *testing.T) *webhook {
	w := &webhook{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Errorf("webhook: %v", err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.messages = append(w.messages, m)
	}))
	t.Cleanup(w.Close)
	return w
}

// count is how many messages there were about an alert in a state.
func (w *webhook) count(alert, status string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.messages {
		for _, a := range m.Alerts {
			if a.Labels["alertname"] == alert && a.Status == status {
				n++
			}
		}
	}
	return n
}

func (w *webhook) first() message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.messages[0]
}

// routes is an Alertmanager's configuration that sends everything to the webhook, each alert by itself.
func (w *webhook) routes(repeat string) string {
	return "route: {receiver: hook, group_by: [alertname], group_wait: 100ms, group_interval: 500ms, repeat_interval: " + repeat + "}\n" +
		"receivers: [{name: hook, webhook_configs: [{url: '" + w.URL + "'}]}]\n"
}

// held is an alert as an Alertmanager's API gives it.
type held struct {
	Labels    map[string]string
	EndsAt    time.Time
	UpdatedAt time.Time
	Status    struct{ State string }
}

// alertsAt asks an Alertmanager which alerts it has; nil when it does not answer.
func alertsAt(t *testing.T, am *peertest.Server) map[string]held {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(am.URL + "/api/v2/alerts")
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	var list []held
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil
	}
	byName := map[string]held{}
	for _, a := range list {
		byName[a.Labels["alertname"]] = a
	}
	return byName
}

// above is a group with an alert on a metric of its own.
func above(name string) Group {
	return Group{Name: name, Interval: 100 * time.Millisecond, Rules: []Rule{{Alert: &Alert{
		Name: name, Expr: "load{of=\"" + name + "\"} > 3", Labels: map[string]string{"severity": "warning"},
		Annotations: map[string]string{"summary": "{{ $labels.of }} has {{ $value }}"},
	}}}}
}

// load sets the metric of above.
func load(t *testing.T, s *Store, name string, value float64) {
	t.Helper()
	put(t, s, `load{of="`+name+`"}`, time.Now(), value)
}

// TestAlertmanager: firing, again, silenced, dropped, resolved.
func TestAlertmanager(t *testing.T) {
	hook := newWebhook(t)
	am := peertest.Alertmanager(t, hook.routes("1s"))
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, above("Busy"), above("Muted"), above("Dropped"))
	a, err := ParseAlerting([]byte("alertmanagers: [{static_configs: [{targets: ['"+am.Address+"']}]}]\n"+
		"alert_relabel_configs: [{source_labels: [alertname], regex: Dropped, action: drop}]\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	applyAlerting(t, s, a)
	out, err := exec.Command(peertest.Binary(t, "amtool"), "--alertmanager.url="+am.URL, "silence", "add", "--author=test", "--comment=a test", "--duration=1h", "alertname=Muted").CombinedOutput()
	if err != nil {
		t.Fatalf("amtool: %v: %s", err, out)
	}
	for _, name := range []string{"Busy", "Muted", "Dropped"} {
		load(t, s, name, 7)
	}
	start(t, s)

	until(t, "the webhook hears of it", func() bool { return hook.count("Busy", "firing") >= 1 })
	m := hook.first()
	if got := m.Alerts[0]; m.Version != "4" || m.Status != "firing" || got.Labels["cluster"] != "east" || got.Labels["team"] != "nobody" ||
		got.Annotations["summary"] != "Busy has 7" || !strings.HasPrefix(got.GeneratorURL, "http://flyball.example:9838/graph?g0.expr=load") {
		t.Errorf("the webhook got %+v", m)
	}
	until(t, "it hears of it again", func() bool { return hook.count("Busy", "firing") >= 3 })
	at := alertsAt(t, am)
	if left := at["Busy"].EndsAt.Sub(at["Busy"].UpdatedAt); left <= time.Second || left > 2*time.Second {
		t.Errorf("the alert would end by itself after %s, want four resend delays of 500ms, less the time it took", left)
	}
	if at["Muted"].Status.State != "suppressed" {
		t.Errorf("the silenced alert is %q", at["Muted"].Status.State)
	}
	if _, ok := at["Dropped"]; ok {
		t.Error("a dropped alert is there")
	}
	load(t, s, "Busy", 1)
	until(t, "it hears of the end", func() bool { return hook.count("Busy", "resolved") >= 1 })
	for _, name := range []string{"Muted", "Dropped"} {
		if n := hook.count(name, "firing") + hook.count(name, "resolved"); n != 0 {
			t.Errorf("%s was told %d times", name, n)
		}
	}
}

// TestAlertmanagerDown: late to start, and away when an alert ends, without anybody's help.
func TestAlertmanagerDown(t *testing.T) {
	hook := newWebhook(t)
	am := peertest.Alertmanager(t, hook.routes("1h"))
	am.Stop()
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, above("Busy"), above("Second"))
	applyAlerting(t, s, to(t, "", am.Address))
	load(t, s, "Busy", 7)
	start(t, s)
	evaluated := func() bool {
		g := s.Groups()[0]
		return time.Since(g.LastEvaluation) < time.Second && g.Duration < 100*time.Millisecond && g.Rules[0].State == "firing"
	}
	until(t, "it fires with nobody to tell", evaluated)
	am.Restart()
	until(t, "it is told late", func() bool { return hook.count("Busy", "firing") == 1 })

	am.Stop()
	load(t, s, "Busy", 1)
	load(t, s, "Second", 7)
	until(t, "it ends, and another fires", func() bool {
		g := s.Groups()
		return g[0].Rules[0].State == "inactive" && g[1].Rules[0].State == "firing"
	})
	am.Restart()
	until(t, "both are told", func() bool { return hook.count("Busy", "resolved") == 1 && hook.count("Second", "firing") == 1 })
	if n := hook.count("Busy", "firing"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// TestAlertmanagerCluster: two that know each other both get each alert, and one of them tells it.
func TestAlertmanagerCluster(t *testing.T) {
	hook := newWebhook(t)
	gossip := []string{freeAddress(t), freeAddress(t)}
	var ams []*peertest.Server
	for i := range gossip {
		ams = append(ams, peertest.Alertmanager(t, hook.routes("1h"), "--cluster.listen-address="+gossip[i], "--cluster.peer="+gossip[1-i],
			"--cluster.peer-timeout=2s", "--cluster.gossip-interval=50ms", "--cluster.settle-timeout=5s"))
	}
	until(t, "they know each other", func() bool {
		for _, am := range ams {
			if n := clusterSize(am); n != 2 {
				return false
			}
		}
		return true
	})
	s := open(t, t.TempDir(), quick)
	setGroups(t, s, above("Busy"))
	applyAlerting(t, s, to(t, "", ams[0].Address, ams[1].Address))
	load(t, s, "Busy", 7)
	start(t, s)
	until(t, "both have it", func() bool {
		return alertsAt(t, ams[0])["Busy"].Labels != nil && alertsAt(t, ams[1])["Busy"].Labels != nil
	})
	until(t, "it is told", func() bool { return hook.count("Busy", "firing") >= 1 })
	// The other one waits two seconds for the first to have told it, asks then who has, and would tell it: when it asks again,
	// it has come to an end.
	until(t, "both have asked twice whether it was told", func() bool { return asksAt(ams[0]) >= 2 && asksAt(ams[1]) >= 2 })
	if n := hook.count("Busy", "firing"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func clusterSize(am *peertest.Server) int {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(am.URL + "/api/v2/status")
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	var status struct {
		Cluster struct {
			Status string
			Peers  []any
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil || status.Cluster.Status != "ready" {
		return 0
	}
	return len(status.Cluster.Peers)
}

// asksAt is how often an Alertmanager has asked what was told already.
func asksAt(am *peertest.Server) (n int) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(am.URL + "/metrics")
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "alertmanager_nflog_queries_total %d", &n); err == nil {
			return n
		}
	}
	return 0
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// alertEnv makes the test binary a process that has an alert fire until it is killed: it is the data directory and the
// Alertmanager's address.
const alertEnv = "STORE_TEST_ALERT"

func fireAlert(dir, address string) error {
	opts := DefaultOptions()
	opts.Dir = dir
	quick(&opts)
	s, err := Open(opts)
	if err != nil {
		return err
	}
	a, err := ParseAlerting([]byte("alertmanagers: [{static_configs: [{targets: ['"+address+"']}]}]"), "")
	if err := errors.Join(err, s.ApplyAlerting(a), s.SetGroups([]Group{always("Orphan")})); err != nil {
		return err
	}
	fmt.Println("fires")
	return s.Run(context.Background())
}

// TestAlertOfTheKilled ends by itself: nobody sends it again, and nobody says that it has ended.
func TestAlertOfTheKilled(t *testing.T) {
	hook := newWebhook(t)
	am := peertest.Alertmanager(t, hook.routes("1h"))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), alertEnv+"="+t.TempDir()+"|"+am.Address)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill := func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
		}
	}
	defer kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "fires\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	until(t, "it is told", func() bool { return hook.count("Orphan", "firing") == 1 })
	kill()
	last := alertsAt(t, am)["Orphan"]
	if left := last.EndsAt.Sub(last.UpdatedAt); left <= time.Second || left > 2*time.Second {
		t.Errorf("it ends by itself after %s, want four resend delays of 500ms, less the time it took", left)
	}
	until(t, "it has ended", func() bool { return hook.count("Orphan", "resolved") == 1 })
	if left := alertsAt(t, am); left == nil || len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}
