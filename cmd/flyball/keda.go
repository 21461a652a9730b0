package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"

	"flyball/actuators"
	"flyball/actuators/keda"
	"flyball/rules"
	"flyball/rules/source"
)

const kedaSecuredFlag = "keda.web.config.file"

// kedaSecured reads how the external scaler is secured: by TLS alone, since KEDA sends neither passwords nor headers.
func kedaSecured(path string) (*webConfig, error) {
	c, err := secured(path, kedaSecuredFlag)
	switch {
	case err != nil || c == nil:
		return nil, err
	case c.Users != nil:
		err = errors.New("basic_auth_users: KEDA sends no password: ask for client certificates by client_auth_type and client_ca_file")
	case !c.TLS.IsEnabled():
		err = errors.New("no tls_server_config, which is all that it can be secured by")
	case c.Limiter.Interval != 0 || len(c.HTTP.Header) > 0:
		err = errors.New("rate_limit and headers are of HTTP, which is not served there: leave them out")
	}
	if err != nil {
		return nil, fmt.Errorf("--%s: %s: %w", kedaSecuredFlag, path, err)
	}
	return c, nil
}

// kedaTLS reads the file and its certificates anew for each connection, as the page's are.
func kedaTLS(path string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := kedaSecured(path)
			if err != nil {
				return nil, err
			}
			config, err := web.ConfigToTLSConfig(&c.TLS)
			if err != nil {
				return nil, err
			}
			config.NextProtos = []string{"h2"} // gRPC's
			return config, nil
		},
	}
}

// listenKeda takes the address of the external scaler, where there are targets for it.
func (a *app) listenKeda() (err error) {
	if !a.opts.has(roleRules) || len(a.live.Load().Actuators.Keda) == 0 {
		return nil
	}
	if a.kedaListener, err = listen(a.opts.kedaListen, "keda.listen-address"); err != nil {
		return err
	}
	a.onClose(a.kedaListener.Close)
	return nil
}

// buildKeda makes the external scaler, if it listens.
func (a *app) buildKeda() {
	if a.kedaListener == nil {
		return
	}
	a.kedaSizes = &kedaSizes{app: a, whole: map[string]time.Time{}}
	o := keda.Options{Registerer: a.metrics}
	if a.kedaSecured != nil {
		o.TLS = kedaTLS(a.opts.kedaSecured)
	}
	a.keda = keda.NewServer(a.kedaSizes, o)
}

// decided tells those who follow decisions of one.
func (a *app) decided(d *rules.Decision) {
	if a.keda != nil {
		a.kedaSizes.decided(d)
		a.keda.Changed(d.Rule)
	}
}

// kedaSizes are what the external scaler gives: what the rules of the present configuration decided.
type kedaSizes struct {
	app *app

	mu    sync.Mutex           // guards what follows
	whole map[string]time.Time // when there was last a decision on data that was whole, by the key of its target
	swept time.Time            // when those were last dropped that are no more
}

// kedaIntervals is how many intervals of its group a decision, and one on whole data, is good for: one that is late and one
// that is missed are no outage.
const kedaIntervals = 3

// ofKeda says whether a decision is for a target that KEDA scales.
func ofKeda(d *rules.Decision) bool {
	return strings.HasPrefix(d.Target, keda.Kind+"/") ||
		slices.ContainsFunc(d.Variants, func(v rules.Placement) bool { return strings.HasPrefix(v.Target, keda.Kind+"/") })
}

func (k *kedaSizes) decided(d *rules.Decision) {
	if !ofKeda(d) || holdsBlind(d) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.whole[d.Target] = d.Time
	if d.Time.Sub(k.swept) > rules.MaxPeriod { // targets that for_each does not find any more
		maps.DeleteFunc(k.whole, func(_ string, at time.Time) bool { return d.Time.Sub(at) > rules.MaxPeriod })
		k.swept = d.Time
	}
}

// holdsBlind says that a decision holds and that something is missing which it needs.
func holdsBlind(d *rules.Decision) bool {
	if d.Action != rules.Hold {
		return false
	}
	return slices.Contains(d.Reasons, rules.ActuatorError) ||
		slices.ContainsFunc(d.Queries, func(a rules.Answer) bool { return a.Fault != "" && !a.Optional }) ||
		slices.ContainsFunc(d.Signals, func(s rules.SignalRecord) bool { return s.Reason == rules.MetricNaN })
}

// Desired implements keda.Sizes.
func (k *kedaSizes) Desired(rule, target string) (int, error) {
	undecided := func(format string, args ...any) (int, error) {
		return 0, fmt.Errorf("rule %s: %w: %s", rule, keda.ErrUndecided, fmt.Sprintf(format, args...))
	}
	if k.app.phase.Load() == starting {
		return undecided("flyball is starting")
	}
	scalers := k.app.live.Load().scalers
	at := slices.IndexFunc(scalers, func(s *rules.Scaler) bool { return s.Name() == rule })
	if at < 0 {
		return 0, fmt.Errorf("no scale rule %q%s: %w", rule, source.DidYouMean(rule, kedaRules(scalers)), keda.ErrNotFound)
	}
	s := scalers[at]
	key, variant, err := kedaTarget(s, target)
	if err != nil {
		return 0, err
	}
	d := s.Decision(key)
	if s.Rule().ForEach != nil && d == nil {
		if known := kedaFound(s); len(known) > 0 {
			return 0, fmt.Errorf("rule %s has no target %q%s: %w", rule, target, source.DidYouMean(target, known), keda.ErrNotFound)
		}
	}
	k.mu.Lock()
	whole := k.whole[key]
	k.mu.Unlock()
	now, good := time.Now(), kedaIntervals*s.Rule().Interval()
	frozen, isFrozen := rules.Freeze{}, false
	if k.app.brake != nil {
		frozen, isFrozen = k.app.brake.Frozen()
	}
	switch {
	case !s.Acts():
		return undecided("it only observes: `mode: act` in the rule and --act.enabled give its decisions to KEDA")
	case isFrozen:
		return undecided("acting is frozen by %s", frozen.By)
	case d == nil || d.Rule != rule:
		return undecided("it has not been evaluated since flyball started")
	case now.Sub(d.Time) > good:
		return undecided("it was last evaluated %s ago", now.Sub(d.Time).Round(time.Second))
	case d.Result == rules.Observed:
		return undecided("it has not been evaluated since acting was frozen")
	case whole.IsZero():
		return undecided("it holds since flyball started: %s", d.Text)
	case now.Sub(whole) > good:
		return undecided("it has held for %s: %s", now.Sub(whole).Round(time.Second), d.Text)
	}
	return k.size(d, variant), nil
}

// size is what a decision came to for its target, or for one of its variants: where it was not carried out, as before.
func (k *kedaSizes) size(d *rules.Decision, variant string) int {
	from, to := d.From, d.To
	for _, v := range d.Variants {
		if v.Target == variant {
			from, to = v.From, v.To
		}
	}
	if d.Result == rules.Applied || d.Result == rules.Unchanged {
		return to
	}
	return from
}

// kedaTarget finds which of a rule's targets is meant: the key of its decisions, and the variant of it, if it is one.
func kedaTarget(s *rules.Scaler, name string) (key, variant string, err error) {
	rule := s.Rule()
	invalid := func(format string, args ...any) (string, string, error) {
		return "", "", fmt.Errorf("rule %s %s: %w", rule.Name, fmt.Sprintf(format, args...), keda.ErrInvalid)
	}
	if rule.ForEach != nil {
		switch {
		case rule.Target.Kind != keda.Kind:
			return invalid("has targets of the kind %s, not %s", rule.Target.Kind, keda.Kind)
		case name == "":
			return invalid("has many targets: the metadata's `target` is to name one, such as %s", orNone(kedaFound(s)))
		}
		return actuators.Target{Kind: keda.Kind, Name: name}.String(), "", nil
	}
	all, _ := rule.Targets()
	var names []string
	for _, t := range all {
		if t.Kind == keda.Kind {
			names = append(names, t.Name)
		}
	}
	switch {
	case len(names) == 0:
		return invalid("has the target %s, and none of kind %s", all[0], keda.Kind)
	case name == "" && len(names) > 1:
		return invalid("has %d targets: the metadata's `target` is to name one of %s", len(names), strings.Join(names, ", "))
	case name == "":
		name = names[0]
	case !slices.Contains(names, name):
		return "", "", fmt.Errorf("rule %s has no target %q%s: %w", rule.Name, name, source.DidYouMean(name, names), keda.ErrNotFound)
	}
	if len(rule.Variants) > 0 {
		variant = actuators.Target{Kind: keda.Kind, Name: name}.String()
	}
	return rule.Key(), variant, nil
}

// kedaRules are the names of rules with a target that KEDA scales.
func kedaRules(scalers []*rules.Scaler) (names []string) {
	for _, s := range scalers {
		targets, _ := s.Rule().Targets()
		if s.Rule().Target.Kind == keda.Kind || slices.ContainsFunc(targets, func(t actuators.Target) bool { return t.Kind == keda.Kind }) {
			names = append(names, s.Name())
		}
	}
	return names
}

// kedaFound are the names of the targets that a rule with for_each has found.
func kedaFound(s *rules.Scaler) (names []string) {
	for _, d := range s.Decisions() {
		names = append(names, strings.TrimPrefix(d.Target, keda.Kind+"/"))
	}
	return names
}

// orNone is a short list of names.
func orNone(names []string) string {
	switch {
	case len(names) == 0:
		return "those that it finds, of which there are none yet"
	case len(names) > 5:
		return strings.Join(names[:5], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}
