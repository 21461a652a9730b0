package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"flyball/exporter/model"
)

// TestModelServers reads the example model server as a user has it: once by the command, and by an exporter that runs.
func TestModelServers(t *testing.T) {
	server, web, dir := freePort(t), freePort(t), t.TempDir()
	models := startChild(t, built.path("modelserver"), "--web.listen-address="+server, "--log.level=error")
	eventually(t, "the model server is ready", func() bool { return status("http://"+server+"/v2/health/ready") == http.StatusOK })

	out, err := exec.Command(built.path("flyball"), "probe", "models", "-o", "json", "http://"+server).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var found struct{ Servers []model.Report }
	if err := json.Unmarshal(out, &found); err != nil || len(found.Servers) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := found.Servers[0]; !r.Up || r.Engine != "flyball" || r.PID != models.Process.Pid {
		t.Errorf("up %v, engine %s, process %d, want %d", r.Up, r.Engine, r.PID, models.Process.Pid)
	}
	out, err = exec.Command(built.path("flyball"), "probe", "models", "http://"+server).Output()
	if err != nil || !strings.Contains(string(out), "modelserver_batch_size") {
		t.Errorf("%v\n%s", err, out)
	}

	// By the protocol it says what models it has, and a token in the URL is in none of the words.
	out, err = exec.Command(built.path("flyball"), "probe", "models", "--engine=oip", "--model=digits", "http://"+server+"/metrics?token=s3cret").Output()
	if err != nil || !regexp.MustCompile(`\n  model digits +ready, version 1`).Match(out) || strings.Contains(string(out), "s3cret") || !strings.Contains(string(out), "?token=xxxxx\n") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = exec.Command(built.path("flyball"), "probe", "models", "--engine=oip", "--model=digits", "-o", "json", "http://"+server).Output()
	var served struct{ Servers []probedServer }
	if err == nil {
		err = json.Unmarshal(out, &served)
	}
	if err != nil || len(served.Servers) != 1 || len(served.Servers[0].Served) != 1 || !served.Servers[0].Served[0].Ready {
		t.Errorf("%v\n%s", err, out)
	}

	file := filepath.Join(dir, "flyball.yml")
	write(t, file, fmt.Sprintf(`exporter:
  collectors: {gpu: false, host: false}
  model_servers:
  - {name: digits-0, url: "http://%[1]s/metrics", model: digits}
  - {name: digits-1, url: "http://%[1]s/metrics", engine: oip, model: digits}
`, server))
	startChild(t, built.path("flyball"), "run", "--role=exporter", "--config.file="+file, "--web.listen-address="+web)
	up := `flyball_model_up{server="digits-0"} 1`
	eventually(t, "the model server is up", func() bool { return strings.Contains(get(t, "http://"+web+"/metrics"), up) })
	ready := `flyball_model_ready{engine="oip",model="digits",server="digits-1"} 1`
	eventually(t, "its model is ready by the protocol", func() bool { return strings.Contains(get(t, "http://"+web+"/metrics"), ready) })
	for _, path := range []string{"/metrics", "/probe?target=digits-0"} {
		text := get(t, "http://"+web+path)
		for _, line := range []string{
			up,
			`flyball_model_requests_running{engine="flyball",model="digits",server="digits-0"} 0`,
			`flyball_model_batch_size_bucket{engine="flyball",model="digits",server="digits-0",le="64"} 0`,
			`flyball_model_process_resident_memory_bytes{engine="flyball",model="digits",server="digits-0"} `,
		} {
			if !strings.Contains(text, line) {
				t.Errorf("%s: no %s in\n%s", path, line, text)
			}
		}
	}
	for query, want := range map[string]int{
		"": http.StatusBadRequest, "?target=": http.StatusBadRequest, "?target=digits-0&target=digits-0": http.StatusBadRequest,
		"?target=http://" + server + "/metrics": http.StatusNotFound,
	} {
		if code := status("http://" + web + "/probe" + query); code != want {
			t.Errorf("/probe%s: %d, want %d", query, code, want)
		}
	}
}

// get is the text at a URL.
func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
