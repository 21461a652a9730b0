package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage/remote"
	"gopkg.in/yaml.v3"
)

// flushDeadline is how long the samples that wait to be sent may take at the end. Prometheus's minute is more than the 30
// seconds after which Kubernetes kills; what is not sent by then is not sent at all.
const flushDeadline = 5 * time.Second

// RemoteWrites are where samples are sent on to, ready to be used.
type RemoteWrites struct {
	configs []*config.RemoteWriteConfig
}

// URLs returns where samples are sent, without passwords.
func (w RemoteWrites) URLs() []string {
	var urls []string
	for _, c := range w.configs {
		urls = append(urls, c.URL.Redacted())
	}
	return urls
}

// ParseRemoteWrite reads the value of remote_write, a list in Prometheus's format, and the files of its TLS settings. Relative
// paths start from dir. The error joins all faults, each beginning with the path of its field, such as
// remote_write[0].url, as closely as it is known.
func ParseRemoteWrite(list []byte, dir string) (RemoteWrites, error) {
	items, err := listItems(list)
	if err != nil {
		return RemoteWrites{}, errors.New("remote_write: it is not a list: give a list of places to send samples to, each with a url")
	}
	var (
		writes RemoteWrites
		errs   []error
	)
	for i, item := range items {
		path := fmt.Sprintf("remote_write[%d]", i)
		c, err := parseRemoteWrite(item, path, dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for j, other := range writes.configs {
			switch {
			case c.Name != "" && c.Name == other.Name:
				errs = append(errs, fmt.Errorf("%s.name: %q is the name of another one: give each its own", path, c.Name))
			case reflect.DeepEqual(c, other):
				errs = append(errs, fmt.Errorf("%s: it is the same as remote_write[%d]: each sample would be sent twice", path, j))
			}
		}
		writes.configs = append(writes.configs, c)
	}
	if err := errors.Join(errs...); err != nil {
		return RemoteWrites{}, err
	}
	return writes, nil
}

// parseRemoteWrite lets Prometheus decode one configuration, alone in a file of its own, so that each one's faults are
// told and not only the first one's.
func parseRemoteWrite(item *yaml.Node, path, dir string) (*config.RemoteWriteConfig, error) {
	room := maxNodes
	if item = withoutAliases(item, &room); item == nil {
		return nil, fmt.Errorf("%s: with its aliases filled in it has more than %d values", path, maxNodes)
	}
	if item.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: it is not a place to send samples to: give a mapping with url", path)
	}
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	err := enc.Encode(map[string]any{"remote_write": []*yaml.Node{item}})
	if err := errors.Join(err, enc.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cfg, err := config.Load(text.String(), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, configErrors(err, section{in: "remote_write[0]", path: path, root: path, form: reflect.TypeFor[config.RemoteWriteConfig]()}, text.Bytes())
	}
	c := cfg.RemoteWriteConfigs[0]
	c.SetDirectory(dir)
	if u := c.URL; u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("%s.url: %q is not the http(s) URL of a receiver: give one such as http://prometheus:9090/api/v1/write", path, u.Redacted())
	}
	if err := checkWriteClient(c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// checkWriteClient makes a client as the sender does, which reads the files of TLS.
func checkWriteClient(c *config.RemoteWriteConfig) error {
	_, err := remote.NewWriteClient("check", &remote.ClientConfig{
		URL: c.URL, WriteProtoMsg: c.ProtobufMessage, Timeout: c.RemoteTimeout, HTTPClientConfig: c.HTTPClientConfig,
		SigV4Config: c.SigV4Config, AzureADConfig: c.AzureADConfig, GoogleIAMConfig: c.GoogleIAMConfig, Headers: c.Headers,
	})
	return err
}

// sender sends on what is written to the database, by Prometheus's own queues over its write-ahead log. Nothing of it
// runs before there is somewhere to send to.
type sender struct {
	dir      string
	deadline time.Duration // flushDeadline
	logger   *slog.Logger
	reg      prometheus.Registerer

	storage atomic.Pointer[remote.WriteStorage] // nil: there never was anywhere to send to
	applied sending                             // guarded by Store.reload
}

// sending is all that the queues depend on.
type sending struct {
	RemoteWrites
	external labels.Labels
}

// Notify implements wlog.WriteNotified: there is something new in the log.
func (s *sender) Notify() {
	if w := s.storage.Load(); w != nil {
		w.Notify()
	}
}

// check makes the clients, as their files may have changed since they were parsed.
func (s sending) check() error {
	var errs []error
	for i, c := range s.configs {
		if err := checkWriteClient(c); err != nil {
			errs = append(errs, fmt.Errorf("remote_write[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// change starts and stops queues; those that did not change go on. What it is given must have been checked just now, since
// Prometheus's storage forgets queues when it fails half-way. Store.reload is held.
func (s *sender) change(to sending) error {
	w := s.storage.Load()
	if w == nil {
		if len(to.configs) == 0 {
			s.applied = to
			return nil
		}
		w = remote.NewWriteStorage(s.logger, s.reg, s.dir, s.deadline, nil, false)
	}
	cfg := &config.Config{RemoteWriteConfigs: to.configs}
	cfg.GlobalConfig.ExternalLabels = to.external
	if err := w.ApplyConfig(cfg); err != nil {
		if s.storage.Load() == nil {
			err = errors.Join(err, w.Close())
		}
		return fmt.Errorf("remote_write: %w", err)
	}
	s.storage.Store(w)
	s.applied = to
	return nil
}

// close sends what waits to be sent, for at most the deadline a queue.
func (s *sender) close() error {
	if w := s.storage.Swap(nil); w != nil {
		return w.Close()
	}
	return nil
}
