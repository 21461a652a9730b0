//go:build linux

package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCompatDCGM runs flyball beside a stand-in for NVML: the page of dcgm-exporter's names is there when the configuration or
// the flag says so, follows a reload, and has what the GPUs have.
func TestCompatDCGM(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no gcc: CI has to have one")
		}
		t.Skip("no gcc to compile a stand-in for NVML with")
	}
	dir := t.TempDir()
	library, config := filepath.Join(dir, "libnvidia-ml.so.1"), filepath.Join(dir, "flyball.yml")
	if out, err := exec.Command(gcc, "-shared", "-fPIC", "-o", library, "../../exporter/gpu/testdata/nvml_stub.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	get := func(web string) (int, string) {
		response, err := http.Get("http://" + web + "/metrics/dcgm")
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Error(err)
		}
		return response.StatusCode, string(text)
	}
	start := func(name, text string, more ...string) (c *child, web string) {
		t.Setenv("NODE_NAME", "node-1")
		web = freePort(t)
		write(t, config, text)
		return startChild(t, built.path("flyball"), append([]string{
			"run", "--role=exporter", "--config.file=" + config, "--web.listen-address=" + web,
			"--storage.path=" + filepath.Join(dir, name),
		}, more...)...), web
	}
	const gpus = "exporter: {collectors: {host: false}, gpu: {library: 'LIBRARY'}COMPAT}\n"
	with := func(compat string) string {
		return strings.NewReplacer("LIBRARY", library, "COMPAT", compat).Replace(gpus)
	}
	const want = `DCGM_FI_DEV_GPU_UTIL{DCGM_FI_DRIVER_VERSION="570.86.15",HOST="node-1",UUID="GPU-00000000-0000-0000-0000-000000000001",device="nvidia1",gpu="1",modelName="Stub H100",pci_bus_id="00000000:1A:00.0"} 73`

	c, web := start("configured", with(", compat: dcgm"))
	eventually(t, "its page has the GPUs", func() bool {
		_, page := get(web)
		return strings.Contains(page, strings.Replace(want, "HOST", "Hostname", 1))
	})
	write(t, config, with(", compat: dcgm, compat_hostname_label: hostname"))
	c.signal(syscall.SIGHUP)
	eventually(t, "the label is another one", func() bool {
		_, page := get(web)
		at := strings.Index(page, "\nDCGM_FI_DEV_GPU_UTIL{")
		return at >= 0 && strings.Contains(page, `hostname="node-1"`) && !strings.Contains(page, "Hostname=")
	})
	write(t, config, with(""))
	c.signal(syscall.SIGHUP)
	eventually(t, "the page is gone", func() bool { code, _ := get(web); return code == http.StatusNotFound })
	c.signal(syscall.SIGTERM)
	c.wait()

	c, web = start("by flag", with(", compat: none"), "--compat=dcgm")
	eventually(t, "its page has the GPUs", func() bool {
		_, page := get(web)
		return strings.Contains(page, strings.Replace(want, "HOST", "Hostname", 1))
	})
	c.signal(syscall.SIGTERM)
	c.wait()

	t.Run("a name that nobody has", func(t *testing.T) {
		write(t, config, with(", compat: rocm"))
		out, err := exec.Command(built.path("flyball"), "check", "config", config).CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte(`compat: "rocm" is not known: expected none or dcgm`)) {
			t.Errorf("%v: %s", err, out)
		}
	})
}
