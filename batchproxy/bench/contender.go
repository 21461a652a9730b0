package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The names of the contenders, as they stand in the tables.
const (
	direct       = "direct"
	nginx        = "nginx"
	haproxy      = "haproxy"
	reverseProxy = "ReverseProxy"
	passThrough  = "flyball, no batches"
	timeout2     = "flyball timeout 2ms"
	timeout5     = "flyball timeout 5ms"
	greedy       = "flyball greedy"
	adaptive     = "flyball adaptive"
	adaptiveJSON = "flyball adaptive, JSON"
)

// contenderNames are all of them, in the order of the rows and of a round.
func contenderNames() []string {
	return []string{direct, nginx, haproxy, reverseProxy, passThrough, timeout2, timeout5, greedy, adaptive, adaptiveJSON}
}

// contender is a way from the clients to a model server.
type contender struct {
	name    string
	batches bool // it merges requests
	tensors bool // it differs from others with tensors of many numbers alone
	// start starts it before an upstream; ready when it returns.
	start func(ctx context.Context, c *children, upstream string) (running, error)
}

// running is a contender that takes requests.
type running struct {
	contender
	url  string
	pids []int // of its processes; none for direct
}

// batching is what stands below `batch` in flyball's configuration.
type batching struct {
	name string
	with string // by its mode
	// without is the same for a flyball that has no modes: its timer is what it always did, and one that has no time is greedy.
	without string
	tensors string // what stands for binary_tensors; the default where it is empty
}

func batchings() []batching {
	return []batching{
		{passThrough, "{mode: off, max_size: 1}", "{max_size: 1, max_wait: 0s}", ""},
		{timeout2, "{mode: timeout, max_wait: 2ms}", "{max_wait: 2ms}", ""},
		{timeout5, "{mode: timeout, max_wait: 5ms}", "{max_wait: 5ms}", ""},
		{greedy, "{mode: greedy}", "{max_wait: 0s}", ""},
		{adaptive, "{mode: adaptive}", "", ""},
		{adaptiveJSON, "{mode: adaptive}", "", "never"}, // as to a server that reads JSON alone
	}
}

// programs says where the programs are.
type programs struct {
	flyball, modelserver, onnxserver string
	components                       string // the folder of nginx, haproxy and wrk
}

// component is a program that .ci/components unpacks, or the system's own; empty where there is none.
func (p programs) component(name string) string {
	if path, err := filepath.Abs(filepath.Join(p.components, name)); err == nil {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	return ""
}

// find is the contenders of these names that there are, and a note for each that there is not.
func (p programs) find(ctx context.Context, c *children, names []string) (found []contender, notes []string, err error) {
	add := func(name string, batches bool, start func(context.Context, *children, string) (running, error)) {
		if slices.Contains(names, name) {
			found = append(found, contender{name: name, batches: batches, tensors: name == adaptiveJSON, start: start})
		}
	}
	add(direct, false, func(_ context.Context, _ *children, upstream string) (running, error) {
		return running{url: upstream}, nil
	})
	for _, peer := range []struct {
		name   string
		config func(address, upstream, dir string) string
		args   func(config, dir string) []string
	}{
		{nginx, nginxConfig, func(config, dir string) []string { return []string{"-p", dir, "-e", "stderr", "-c", config} }},
		{haproxy, haproxyConfig, func(config, _ string) []string { return []string{"-db", "-f", config} }},
	} {
		program := p.component(peer.name)
		if program == "" {
			if slices.Contains(names, peer.name) {
				notes = append(notes, peer.name+" is left out: it is neither in "+p.components+" nor on this system (make components)")
			}
			continue
		}
		add(peer.name, false, func(ctx context.Context, c *children, upstream string) (running, error) {
			address, err := freeAddress()
			if err != nil {
				return running{}, err
			}
			config, err := c.writeFile(peer.name+".conf", peer.config(address, strings.TrimPrefix(upstream, "http://"), c.dir))
			if err != nil {
				return running{}, err
			}
			return c.run(ctx, peer.name, address, program, peer.args(config, c.dir)...)
		})
	}
	add(reverseProxy, false, func(ctx context.Context, c *children, upstream string) (running, error) {
		self, err := selfPath()
		if err != nil {
			return running{}, err
		}
		address, err := freeAddress()
		if err != nil {
			return running{}, err
		}
		return c.run(ctx, reverseProxy, address, self, reverseProxyCommand, "--listen-address="+address, "--upstream="+upstream)
	})
	for _, b := range batchings() {
		if !slices.Contains(names, b.name) {
			continue
		}
		batch := b.with
		refused, err := p.refuses(ctx, c, batch, b.tensors)
		if err != nil {
			return nil, nil, err
		}
		if refused {
			if batch = b.without; batch == "" {
				notes = append(notes, b.name+" is left out: this flyball refuses batch: "+b.with+", binary_tensors: "+cmp.Or(b.tensors, "auto"))
				continue
			}
		}
		add(b.name, b.name != passThrough, func(ctx context.Context, c *children, upstream string) (running, error) {
			return p.startFlyball(ctx, c, b.name, flyballConfig(batch, b.tensors, upstream))
		})
	}
	return found, notes, nil
}

// refuses reports whether flyball knows no `mode`, or not this one, or no `binary_tensors`.
func (p programs) refuses(ctx context.Context, c *children, batch, tensors string) (bool, error) {
	path, err := c.writeFile("check.yml", flyballConfig(batch, tensors, "http://127.0.0.1:1"))
	if err != nil {
		return false, err
	}
	out, err := exec.CommandContext(ctx, p.flyball, "check", "config", path).CombinedOutput()
	if err == nil {
		return false, nil
	}
	if ctx.Err() == nil && (strings.Contains(string(out), "mode") || strings.Contains(string(out), "binary_tensors")) {
		return true, nil
	}
	return false, fmt.Errorf("flyball check config: %w\n%s", err, out)
}

// model is the one that is asked in all scenes.
const model = "digits"

func flyballConfig(batch, tensors, upstream string) string {
	config := fmt.Sprintf("batchproxy:\n  models:\n  - name: %s\n    upstreams: [{url: %q}]\n    batch: %s\n", model, upstream, batch)
	if tensors != "" {
		config += "    binary_tensors: " + tensors + "\n"
	}
	return config
}

func (p programs) startFlyball(ctx context.Context, c *children, name, text string) (running, error) {
	config, err := c.writeFile(name+".yml", text)
	if err != nil {
		return running{}, err
	}
	address, err := freeAddress()
	if err != nil {
		return running{}, err
	}
	return c.run(ctx, name, address, p.flyball, "run", "--role=batchproxy", "--config.file="+config, "--log.level=warn",
		"--web.listen-address=127.0.0.1:0", "--batchproxy.listen-address="+address)
}

// run starts a proxy that listens at an address, and waits until it takes requests.
func (c *children) run(ctx context.Context, name, address, program string, args ...string) (running, error) {
	ch, err := c.start(ctx, name, program, args...)
	if err != nil {
		return running{}, err
	}
	url := "http://" + address
	if err := ch.ready(ctx, url+"/v2/health/ready"); err != nil {
		return running{}, err
	}
	return running{url: url, pids: withChildren(ch.pid())}, nil
}

// nginxConfig is a plain reverse proxy that keeps its connections, two workers for the two cores of the machine that the figures are from.
func nginxConfig(address, upstream, dir string) string {
	return fmt.Sprintf(`daemon off;
worker_processes 2;
pid %[3]s/nginx.pid;
error_log stderr warn;
events { worker_connections 2048; }
http {
  access_log off;
  keepalive_requests 100000000;
  client_body_buffer_size 64k;
  client_body_temp_path %[3]s/nginx-client;
  proxy_temp_path %[3]s/nginx-proxy;
  fastcgi_temp_path %[3]s/nginx-fastcgi;
  uwsgi_temp_path %[3]s/nginx-uwsgi;
  scgi_temp_path %[3]s/nginx-scgi;
  upstream replica { server %[2]s; keepalive 512; keepalive_requests 100000000; }
  server {
    listen %[1]s;
    location / {
      proxy_pass http://replica;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`, address, upstream, dir)
}

// haproxyConfig is the same of haproxy.
func haproxyConfig(address, upstream, _ string) string {
	return fmt.Sprintf(`global
  nbthread 2
  maxconn 4096
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind %s
  default_backend replica
backend replica
  server one %s
`, address, upstream)
}
