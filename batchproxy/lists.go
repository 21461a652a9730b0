package batchproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Lists of replicas that are asked for again and again. Each is an [Endpoints] of one upstream: a name in DNS, or files.

// listEvery is how often a list is read where Upstream.Interval is 0: a scale-up has requests within seconds, and a lookup
// or a small file that often costs nothing.
const listEvery = 10 * time.Second

// polled is Endpoints by reading a list at an interval. Where it cannot be read, the last one that could stands, which is
// empty at first, and that is logged once until it can be read again.
type polled struct {
	every  time.Duration
	logger *slog.Logger
	read   func(ctx context.Context, name string) ([]string, error)
}

// Endpoints implements Endpoints. It returns no error: a name that is not known yet may be later.
func (l *polled) Endpoints(ctx context.Context, name string) ([]string, <-chan []string, error) {
	failing := false
	read := func(last []string) []string {
		list, err := l.read(ctx, name)
		switch {
		case ctx.Err() != nil:
			return last
		case err != nil:
			if !failing {
				l.logger.Warn("a list of replicas cannot be read; the last one stands", "of", name, "replicas", len(last), "err", err)
			}
			failing = true
			if list == nil {
				return last
			}
		case failing:
			l.logger.Info("a list of replicas can be read again", "of", name, "replicas", len(list))
			failing = false
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	current := read(nil)
	changes := make(chan []string)
	go func() {
		defer close(changes)
		ticker := time.NewTicker(l.every)
		defer ticker.Stop()
		last := current
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			next := read(last)
			if slices.Equal(next, last) {
				continue
			}
			l.logger.Info("a list of replicas changed", "of", name, "before", len(last), "after", len(next))
			last = next
			select {
			case changes <- next:
			case <-ctx.Done():
				return
			}
		}
	}()
	return current, changes, nil
}

// lookupTime bounds one lookup, with the resolver's own repetitions in it.
const lookupTime = 5 * time.Second

// byAddress finds the A and AAAA records of host:port. A name that does not exist has no replicas: what had its addresses
// may be something else by now.
func byAddress(resolver *net.Resolver) func(context.Context, string) ([]string, error) {
	return func(ctx context.Context, name string) ([]string, error) {
		host, port, err := net.SplitHostPort(name)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		found, err := resolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return unlessMissing(err)
		}
		list := make([]string, len(found))
		for i, ip := range found {
			list[i] = net.JoinHostPort(ip.Unmap().String(), port)
		}
		return list, nil
	}
}

// byService finds the SRV records of a name. Their hosts are looked up when they are dialled, as Prometheus does.
func byService(resolver *net.Resolver) func(context.Context, string) ([]string, error) {
	return func(ctx context.Context, name string) ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		_, found, err := resolver.LookupSRV(ctx, "", "", name)
		if err != nil {
			return unlessMissing(err)
		}
		list := make([]string, len(found))
		for i, at := range found {
			list[i] = net.JoinHostPort(strings.TrimSuffix(at.Target, "."), strconv.Itoa(int(at.Port)))
		}
		return list, nil
	}
}

// unlessMissing is no replicas for a name that does not exist, and the error for anything else.
func unlessMissing(err error) ([]string, error) {
	if missing, ok := errors.AsType[*net.DNSError](err); ok && missing.IsNotFound {
		return []string{}, nil
	}
	return nil, err
}

// byFile reads files in the format of Prometheus's file_sd_configs, in YAML or JSON. A file that is broken keeps its own last
// good list; one that is gone has none. The files are read as a whole each time: a watch misses the changes of network file
// systems, and some of those of mounted ConfigMaps.
func byFile() func(context.Context, string) ([]string, error) {
	type content struct {
		text []byte
		list []string
		err  error
	}
	known := make(map[string]content)
	return func(_ context.Context, pattern string) ([]string, error) {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		faults := []error{}
		if len(paths) == 0 {
			faults = append(faults, fmt.Errorf("no file is named %s", pattern))
		}
		list := []string{}
		for _, path := range paths {
			was := known[path]
			text, err := os.ReadFile(path)
			if err != nil {
				was.text, was.err = nil, err
			} else if !bytes.Equal(text, was.text) || was.text == nil {
				was.text = text
				var targets []string
				if targets, was.err = parseTargets(text); was.err == nil {
					was.list = targets
				}
			}
			known[path] = was
			if was.err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", path, was.err))
			}
			list = append(list, was.list...)
		}
		maps.DeleteFunc(known, func(path string, _ content) bool { return !slices.Contains(paths, path) })
		return list, errors.Join(faults...)
	}
}

type targetGroup struct {
	Targets []string          `yaml:"targets"`
	Labels  map[string]string `yaml:"labels"`
}

// parseTargets reads the targets of a file for file_sd_configs. Labels are for scraping and say nothing here.
func parseTargets(text []byte) ([]string, error) {
	var groups []targetGroup
	d := yaml.NewDecoder(bytes.NewReader(text)) // JSON is YAML too
	d.KnownFields(true)
	if err := d.Decode(&groups); err != nil {
		return nil, fmt.Errorf("not a list of {targets: [host:port]}: %w", err)
	}
	list := []string{}
	for i, group := range groups {
		for j, target := range group.Targets {
			if err := checkAddress(target); err != nil {
				return nil, fmt.Errorf("[%d].targets[%d]: %w", i, j, err)
			}
			list = append(list, target)
		}
	}
	return list, nil
}

// checkAddress says what is wrong with a host:port.
func checkAddress(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || strings.ContainsAny(host, "/?#@% ") {
		return fmt.Errorf("%q is not host:port, as in llama.ml.svc:8000", text)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("%q: %q is not the number of a port", text, port)
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("%q: %q is not an address", text, host)
		}
	}
	return nil
}
