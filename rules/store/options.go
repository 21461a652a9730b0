package store

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"
)

// Options are the settings of a Store. A zero duration or number means the default that DefaultOptions gives. A registry
// serves one Open: the metrics stay registered.
type Options struct {
	Dir                string        // data directory, created if missing; required
	Retention          time.Duration // how long samples are kept
	MaxBytes           int64         // how much disk the samples may take, the oldest going first; negative means no limit
	MinFree            int64         // bytes that must be free on the disk for anything to be written; negative: none
	ScrapeInterval     time.Duration // of the jobs that give none
	EvaluationInterval time.Duration // of the groups that give none
	ExternalLabels     labels.Labels // on alerts that are sent, in their templates, and part of the seed that spreads scrapes over the interval
	ExternalURL        string        // where users reach flyball, for alert templates and the links in alerts
	ResendDelay        time.Duration // alerts that still fire are sent again after this; what is not sent again ends after four of it, or four intervals if that is longer
	QueryTimeout       time.Duration // the longest that one query may take
	MaxSamples         int           // how many samples one query may hold at once
	LookbackDelta      time.Duration // how old the last sample of a series may be to count as its present value
	APIConcurrency     int           // how many answers of Prometheus's API are made and written at once; more wait, at most QueryTimeout

	Logger     *slog.Logger          // nil: no logs
	Registerer prometheus.Registerer // for Prometheus's own prometheus_* metrics, a registry apart from ours; nil: not exposed
	Metrics    prometheus.Registerer // for our flyball_rule_* and flyball_notifications_* metrics; nil: not exposed

	scratch bool // nothing needs to outlive the process
}

// DefaultOptions returns the settings of a small installation: one node, some thousand series.
func DefaultOptions() Options {
	return Options{
		Retention:          15 * 24 * time.Hour, // two weekly seasons and a day, what the forecasts need at least
		MaxBytes:           1 << 30,             // 10,000 series each 15 s for 15 days at 1.3 bytes a sample: 1.1 GB
		MinFree:            64 << 20,            // what a head of 100,000 series and a segment of the log need to be left whole
		ScrapeInterval:     15 * time.Second,
		EvaluationInterval: 15 * time.Second, // a decision per scrape: a faster one would see the same samples again
		QueryTimeout:       10 * time.Second, // less than an interval, so that one bad query costs one evaluation
		MaxSamples:         5_000_000,        // at 16 bytes a sample one query stays below 80 MB
		LookbackDelta:      5 * time.Minute,  // Prometheus's; users' queries expect it
		APIConcurrency:     4,                // of 80 MB each at worst; two to a core of a small machine. Prometheus: 20
		ResendDelay:        time.Minute,      // Prometheus's; Alertmanager's own times are made for it
	}
}

// The rest of the settings that Prometheus's rule manager takes, at Prometheus's values.
const (
	outageTolerance = time.Hour        // the "for" state of an alert is restored after an outage of at most this
	forGracePeriod  = 10 * time.Minute // a restored alert waits at least this before it fires; shorter "for"s start anew
)

// normalize fills in the defaults and reports what is wrong with the rest.
func (o *Options) normalize() error {
	d := DefaultOptions()
	for _, f := range []struct {
		name       string
		value, def *time.Duration
	}{
		{"retention", &o.Retention, &d.Retention},
		{"scrape_interval", &o.ScrapeInterval, &d.ScrapeInterval},
		{"evaluation_interval", &o.EvaluationInterval, &d.EvaluationInterval},
		{"query_timeout", &o.QueryTimeout, &d.QueryTimeout},
		{"lookback_delta", &o.LookbackDelta, &d.LookbackDelta},
		{"resend_delay", &o.ResendDelay, &d.ResendDelay},
	} {
		if *f.value == 0 {
			*f.value = *f.def
		}
		if *f.value < time.Millisecond {
			return fmt.Errorf("%s: %s is too short: give 1ms or more", f.name, *f.value)
		}
	}
	if o.Dir == "" {
		return errors.New("path: no data directory given")
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = d.MaxBytes
	}
	if o.MinFree == 0 {
		o.MinFree = d.MinFree
	}
	if o.MaxSamples == 0 {
		o.MaxSamples = d.MaxSamples
	}
	if o.APIConcurrency == 0 {
		o.APIConcurrency = d.APIConcurrency
	}
	if o.APIConcurrency < 0 {
		return fmt.Errorf("api_concurrency: %d is not a number of answers: give 1 or more", o.APIConcurrency)
	}
	if o.MaxSamples < 0 {
		return fmt.Errorf("max_samples: %d is not a number of samples: give 1 or more", o.MaxSamples)
	}
	if _, err := url.Parse(o.ExternalURL); err != nil {
		return fmt.Errorf("external url: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	return nil
}

// tsdbOptions are the database's settings for a small installation.
func (o *Options) tsdbOptions() *tsdb.Options {
	t := tsdb.DefaultOptions()
	t.RetentionDuration = o.Retention.Milliseconds()
	t.MaxBytes = max(o.MaxBytes, 0)
	// A compacted block goes as a whole, so it must be a small part of the retention: Prometheus's own rule, a tenth.
	t.MaxBlockDuration = max(t.MinBlockDuration, t.RetentionDuration/10)
	// Segments of the log are dropped whole; at 128 MB a small installation would keep days of it twice.
	t.WALSegmentSize = 16 << 20
	t.WALCompression = compression.Snappy
	// Preallocated while a block is written: 512 MB is half of the default MaxBytes.
	t.MaxBlockChunkSegmentSize = 64 << 20
	// 4 MB of write buffer pay off from some 100,000 series on.
	t.HeadChunksWriteBufferSize = 256 << 10
	// Locks of the series map: 16,384 take 1 MB and more before the first series.
	t.StripeSize = 1 << 10
	if o.scratch {
		// Half of a block is how far behind the newest sample one may come: promtool's tests have 12 hours.
		t.MinBlockDuration = (24 * time.Hour).Milliseconds()
		t.MaxBlockDuration = t.MinBlockDuration
		t.RetentionDuration, t.MaxBytes = 0, 0
		t.WALSegmentSize = -1
		t.NoLockfile = true
	}
	return t
}
