package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/google/go-cmp/cmp"

	"flyball/exporter"
	"flyball/rules/source"
)

// configured is a configuration with the flags of the exporter over it, and what has its faults.
func configured(t *testing.T, flags, yaml string) (Config, *source.Decoder) {
	t.Helper()
	var o exporterOptions
	app := kingpin.New("flyball", "")
	o.add(app.Command("run", ""))
	if _, err := app.Parse(append([]string{"run"}, strings.Fields(flags)...)); err != nil {
		t.Fatal(err)
	}
	file, err := source.Parse("flyball.yml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	d := file.Decoder()
	c := DefaultConfig()
	d.Decode(&c)
	o.apply(&c.Exporter, d)
	return c, d
}

// TestCollectorFlags: a flag wins over the file, the file over --collector.disable-defaults, that over the defaults.
func TestCollectorFlags(t *testing.T) {
	for _, tt := range []struct {
		name, flags, yaml string
		want              string
		fault             string
	}{
		{name: "defaults", want: "gpu host textfile"},
		{name: "the file", yaml: "exporter: {collectors: {host: false}}", want: "gpu textfile"},
		{name: "a flag over the file", flags: "--collector.host --no-collector.gpu", yaml: "exporter: {collectors: {host: false, gpu: true}}", want: "host textfile"},
		{name: "none by default", flags: "--collector.disable-defaults", want: ""},
		{name: "one by a flag", flags: "--collector.disable-defaults --collector.gpu", want: "gpu"},
		{name: "one by the file", flags: "--collector.disable-defaults", yaml: "exporter: {collectors: {host: true}}", want: "host"},
		{
			name: "a GPU is required and none read", flags: "--no-collector.gpu", yaml: "exporter: {gpu: {require: true}}", want: "host textfile",
			fault: "flyball.yml:1:27: true while a flag switches the collector gpu off",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, d := configured(t, tt.flags, tt.yaml)
			var on []string
			c.Exporter.Collectors.Each(func(name string, is *bool) {
				if *is && (name == "gpu" || name == "host" || name == "textfile") {
					on = append(on, name)
				}
			})
			want := strings.Fields(tt.want)
			if diff := cmp.Diff(strings.Join(sorted(want), " "), strings.Join(sorted(on), " ")); diff != "" {
				t.Errorf("collectors (-want +got):\n%s", diff)
			}
			fault := ""
			if faults, ok := errors.AsType[source.Errors](d.Err()); ok {
				fault = faults[0].Error()
			}
			if fault != tt.fault {
				t.Errorf("fault %q, want %q", fault, tt.fault)
			}
		})
	}
}

// TestGPUFlags: what is read of GPUs only where asked for is asked for by a flag or the file, and a flag wins.
func TestGPUFlags(t *testing.T) {
	for _, tt := range []struct {
		flags, yaml      string
		perLink, measure bool
	}{
		{},
		{flags: "--collector.nvlink.per-link", perLink: true},
		{flags: "--collector.gpu.call-durations", measure: true},
		{yaml: "exporter: {gpu: {nvlink_per_link: true, call_durations: true}}", perLink: true, measure: true},
		{flags: "--no-collector.nvlink.per-link", yaml: "exporter: {gpu: {nvlink_per_link: true, call_durations: true}}", measure: true},
	} {
		c, d := configured(t, tt.flags, tt.yaml)
		if got := gpuOptions(c.Exporter.GPU, c.Exporter.Host, false, nil, "", nil); got.NVLinkPerLink != tt.perLink || got.CallDurations != tt.measure || d.Err() != nil {
			t.Errorf("%q, %q: per link %t, durations %t, %v", tt.flags, tt.yaml, got.NVLinkPerLink, got.CallDurations, d.Err())
		}
	}
}

// TestHostPaths: where procfs and sysfs are mounted holds for all that read them of GPUs, pods and model servers.
func TestHostPaths(t *testing.T) {
	c := exporter.DefaultConfig()
	c.Host = exporter.Host{ProcFS: "/host/proc", SysFS: "/host/sys"}
	if got := podOptions(c, nil, nil); got.ProcPath != "/host/proc" {
		t.Errorf("pods: procfs %q", got.ProcPath)
	}
	if got := modelOptions(c, nil, nil); got.ProcFS != "/host/proc" || got.GPUs != nil {
		t.Errorf("model servers: procfs %q, GPUs %v", got.ProcFS, got.GPUs)
	}
	if got := gpuOptions(c.GPU, c.Host, false, nil, "", nil); got.ProcPath != "/host/proc" || got.SysPath != "/host/sys" {
		t.Errorf("GPUs: procfs %q, sysfs %q", got.ProcPath, got.SysPath)
	}
}

func sorted(words []string) []string {
	slices.Sort(words)
	return words
}

// TestExporterFlags: what makes no sense is said before anything starts.
func TestExporterFlags(t *testing.T) {
	o := exporterOptions{maxRequests: -1, timeoutOffset: -time.Second, host: exporter.Host{ProcFS: "proc"}, textfiles: "files"}
	want := `--web.max-requests is -1: expected 0 or more
--web.timeout-offset is -1s: expected 0s or more
--path.procfs is "proc": expected an absolute path
--collector.textfile.directory is "files": expected an absolute path`
	if err := o.check(); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestNativeHistograms: a Prometheus that asks for native histograms gets those that the product has from /metrics, and one
// that does not gets the buckets. The Prometheus is the embedded one, the connection a real one.
func TestNativeHistograms(t *testing.T) {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"predictions": [7]}`)
	}))
	defer model.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "flyball.yml")
	if err := os.WriteFile(config, []byte("global: {scrape_interval: 100ms, evaluation_interval: 1s}\nexporter: {collectors: {gpu: false}}\n"+
		"batchproxy: {models: [{name: m, upstreams: [{url: '"+model.URL+"'}]}]}\n"+
		"scrape_configs:\n- {job_name: native, scrape_native_histograms: true, static_configs: [{targets: ['"+address+"']}]}\n"+
		"- {job_name: classic, static_configs: [{targets: ['"+address+"']}]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	loaded, err := load(config)
	if err != nil {
		t.Fatal(err)
	}
	loaded.Storage.Path = filepath.Join(dir, "state")
	a, err := newApp(loaded, &runOptions{
		roles: []string{roleAll}, webListen: []string{address}, proxyListen: "127.0.0.1:0", log: slog.New(slog.DiscardHandler), stdout: io.Discard,
		exporter: exporterOptions{maxRequests: 40, timeoutOffset: exporter.DefaultTimeoutOffset},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	// value is that of a query, "" while there is none.
	value := func(query string) string {
		response, err := http.Get(a.pageURL() + "api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			return ""
		}
		defer response.Body.Close()
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		if json.NewDecoder(response.Body).Decode(&answer) != nil || len(answer.Data.Result) == 0 {
			return ""
		}
		text, _ := answer.Data.Result[0].Value[1].(string)
		return text
	}
	wait := func(query, want string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); value(query) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %q, want %s", query, value(query), want)
			}
		}
	}
	wait(`min(up)`, "1")
	response, err := http.Post("http://"+a.proxyListener.Addr().String()+"/v1/models/m:predict", "application/json", strings.NewReader(`{"instances": [1]}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	wait(`sum(histogram_count(flyball_batchproxy_request_duration_seconds{job="native"}))`, "1")
	wait(`sum(flyball_batchproxy_request_duration_seconds_bucket{job="classic",le="+Inf"})`, "1")
	for query, want := range map[string]string{
		`flyball_batchproxy_request_duration_seconds_bucket{job="native"}`:            "",
		`histogram_count(flyball_batchproxy_request_duration_seconds{job="classic"})`: "",
	} {
		if got := value(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

// TestExporterWithoutConfiguration: the exporter alone starts where there is no file, with the defaults; a file that was asked for, or that
// another role needs, has to be there.
func TestExporterWithoutConfiguration(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "flyball.yml")
	for _, tt := range []struct {
		name  string
		roles []string
		given bool
		fails bool
	}{
		{"the exporter", []string{roleExporter}, false, false},
		{"a file that was asked for", []string{roleExporter}, true, true},
		{"all", []string{roleAll}, false, true},
		{"the exporter and the proxy", []string{roleExporter, roleBatchproxy}, false, true},
	} {
		o := runOptions{configFile: missing, configGiven: tt.given, roles: tt.roles, log: slog.New(slog.DiscardHandler)}
		l, err := o.load(nil)
		if (err != nil) != tt.fails {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !tt.fails && !reflect.DeepEqual(l.Exporter, exporter.DefaultConfig()) {
			t.Errorf("%s: %+v", tt.name, l.Exporter)
		}
	}
}
