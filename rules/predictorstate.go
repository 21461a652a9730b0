package rules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/forecast"
)

// ForecastStates are the files of what forecast rules know, one for each rule, in a directory of their own: each is written as a
// whole, every ten minutes and at the end. What passed after the last one is asked for again.
type ForecastStates struct {
	Directory string
	Workers   *Workers // ended before the last files are written
	Metrics   *Metrics
	Log       *slog.Logger

	mu         sync.Mutex
	predictors []*Predictor
}

const (
	forecastStateVersion = 1
	forecastInterval     = 10 * time.Minute
	forecastStateSuffix  = ".json"
)

// savedForecast is the file of one rule.
type savedForecast struct {
	Version int          `json:"version"`
	Rule    string       `json:"rule"` // its options, as of then
	At      time.Time    `json:"at"`
	Next    int64        `json:"next"`   // the step whose value is asked for next
	Loaded  bool         `json:"loaded"` // with the history
	Series  []savedTrack `json:"series"`
}

// savedTrack is one series.
type savedTrack struct {
	Labels     map[string]string       `json:"labels"`
	Forecaster []byte                  `json:"forecaster"`
	Heard      int64                   `json:"heard"`
	Last       int64                   `json:"last"`
	Recent     []*float64              `json:"recent"`
	Offs       []float64               `json:"residuals,omitempty"`
	Missing    int64                   `json:"missing"`
	Anomalies  map[forecast.Kind]int64 `json:"anomalies,omitempty"`
	Anomaly    *Anomaly                `json:"anomaly,omitempty"`
	Fitted     time.Time               `json:"fitted,omitzero"`
	Armed      bool                    `json:"armed"`
}

// Show makes these the rules whose states are kept.
func (s *ForecastStates) Show(all []*Predictor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.predictors = all
}

// all are the rules whose states are kept.
func (s *ForecastStates) all() []*Predictor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.predictors)
}

// Run writes the files now and then, and once more when ctx ends, by which time no rule may be evaluated any more.
func (s *ForecastStates) Run(ctx context.Context) error {
	ticker := time.NewTicker(forecastInterval)
	defer ticker.Stop()
	var failing error
	save := func() {
		err := s.Save(time.Now())
		switch {
		case err != nil && failing == nil:
			s.Log.Error("what forecast rules know cannot be saved: after a restart they load their histories", "err", err)
		case err == nil && failing != nil:
			s.Log.Info("what forecast rules know is saved again")
		}
		if failing = err; err != nil {
			s.Metrics.unsaved.Inc()
		}
	}
	for {
		select {
		case <-ctx.Done():
			s.Workers.Close()
			save()
			return nil
		case <-ticker.C:
			save()
		}
	}
}

// Save writes the files as of now, and removes those of rules that are gone.
func (s *ForecastStates) Save(now time.Time) error {
	all := s.all()
	if len(all) > 0 {
		if err := os.MkdirAll(s.Directory, 0o700); err != nil {
			return err
		}
	}
	var errs []error
	kept := map[string]bool{}
	for _, p := range all {
		kept[filepath.Base(p.statePath())] = true
		errs = append(errs, p.save(now))
	}
	files, err := os.ReadDir(s.Directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), forecastStateSuffix) && !kept[f.Name()] {
			errs = append(errs, os.Remove(filepath.Join(s.Directory, f.Name())))
		}
	}
	return errors.Join(errs...)
}

func (p *Predictor) statePath() string {
	return filepath.Join(p.opts.Directory, p.rule.Name+forecastStateSuffix)
}

// made is what of the rule forecasters are made of: with another, what was known is of no use.
func (f *ForecastRule) made() string {
	of := *f
	of.Lead, of.Anomalies, of.Limit = "", Anomalies{}, 0
	text, err := json.Marshal(of)
	if err != nil {
		panic("rules: a forecast rule as JSON: " + err.Error())
	}
	return string(text)
}

// Equal says whether two rules that Reader has read forecast alike.
func (f *ForecastRule) Equal(o *ForecastRule) bool {
	return f.made() == o.made() && f.Lead == o.Lead && f.Anomalies == o.Anomalies && f.Limit == o.Limit
}

func (p *Predictor) save(now time.Time) error {
	p.mu.Lock()
	if !p.started {
		p.mu.Unlock()
		return nil // it has nothing that the file has not
	}
	s := savedForecast{Version: forecastStateVersion, Rule: p.rule.made(), At: now, Next: p.next, Loaded: p.history.loaded}
	var errs []error
	for _, key := range sortedKeys(p.tracks) {
		t := p.tracks[key]
		if !t.begun {
			continue
		}
		state, err := t.f.MarshalBinary()
		errs = append(errs, err)
		one := savedTrack{
			Labels: t.labels.Map(), Forecaster: state, Heard: t.heard, Last: t.last, Offs: t.offs, Missing: t.missing,
			Anomalies: t.anomalies, Anomaly: t.anomaly, Fitted: t.fitted, Armed: t.armed,
		}
		for _, v := range t.recent {
			one.Recent = append(one.Recent, known(v))
		}
		s.Series = append(s.Series, one)
	}
	var text bytes.Buffer
	errs = append(errs, json.NewEncoder(&text).Encode(s))
	p.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("forecast %s: %w", p.rule.Name, err)
	}
	if err := writeFile(p.statePath(), text.Bytes()); err != nil {
		return fmt.Errorf("forecast %s: %w", p.rule.Name, err)
	}
	return nil
}

// known is a number as JSON has it: null for NaN.
func known(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// open takes in what was saved, at the first evaluation. What cannot be understood is put aside, and the history loaded.
func (p *Predictor) open(at time.Time) {
	if p.opened {
		return
	}
	p.opened = true
	if p.opts.Directory == "" {
		return
	}
	path := p.statePath()
	s, err := readForecast(path)
	if err == nil && s.Rule != p.rule.made() {
		p.log.Info("the forecast's rule has changed: it begins anew, from the history")
		return
	}
	var tracks map[string]*track
	if err == nil {
		tracks, err = p.restored(s)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		aside := path + ".invalid"
		p.log.Warn("what the forecast knew cannot be read; its history is loaded instead", "path", path, "kept_as", aside,
			"err", errors.Join(err, os.Rename(path, aside)))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started, p.next, p.tracks = true, s.Next, tracks
	p.history.loaded = s.Loaded
	p.log.Info("a forecast goes on where it was", "series", len(tracks), "away", at.Sub(s.At).Round(time.Second))
}

func readForecast(path string) (s savedForecast, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSnapshot+1))
	if err != nil {
		return s, err
	}
	if len(text) > maxSnapshot {
		return s, fmt.Errorf("it is larger than %d bytes", maxSnapshot)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, err
	}
	if s.Version != forecastStateVersion {
		return s, fmt.Errorf("its version is %d: expected %d", s.Version, forecastStateVersion)
	}
	return s, nil
}

func (p *Predictor) restored(s savedForecast) (map[string]*track, error) {
	tracks := map[string]*track{}
	for _, saved := range s.Series {
		if len(tracks) == p.rule.Limit {
			break
		}
		key, ls := identity(labels.FromMap(saved.Labels))
		f, err := p.revive(saved.Forecaster)
		if err != nil {
			return nil, fmt.Errorf("series %s: %w", ls, err)
		}
		t := &track{
			labels: ls, f: f, begun: true, heard: saved.Heard, last: saved.Last, missing: saved.Missing,
			anomalies: saved.Anomalies, anomaly: saved.Anomaly, fitted: saved.Fitted, armed: saved.Armed,
		}
		if t.anomalies == nil {
			t.anomalies = map[forecast.Kind]int64{}
		}
		for _, v := range saved.Recent {
			y := math.NaN()
			if v != nil {
				y = *v
			}
			t.recent = append(t.recent, y)
		}
		if err := t.detect(p, saved.Offs); err != nil {
			return nil, err
		}
		t.refresh(p)
		tracks[key] = t
	}
	return tracks, nil
}
