package rules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/template"
	"text/template/parse"
	"time"

	"flyball/actuators"
)

// maxTargets bounds ForEach.Limit: what one evaluation can decide for within an interval.
const maxTargets = 20_000

// targetName is what a target may be called: a name of Kubernetes, with the slashes of a path.
var targetName = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_./]{0,251}[A-Za-z0-9])?$`)

// name is the name of the target whose labels have these values, by the template.
func (f *ForEach) name(text string, values []string) (string, error) {
	if len(text) > maxTemplate {
		return "", fmt.Errorf("the template is longer than %d characters", maxTemplate)
	}
	t, err := template.New("target.name").Option("missingkey=error").Parse("{{ $labels := . }}" + text)
	if err != nil {
		return "", templateError(err)
	}
	if len(t.Templates()) > 1 || t.Tree == nil || loopsIn(t.Root) {
		return "", errors.New("the template is more than a text with labels: expected none of range, with, define, template and printf")
	}
	labels := map[string]string{}
	for i, name := range f.By {
		labels[name] = values[i]
	}
	var b bytes.Buffer
	if err := t.Execute(&b, labels); err != nil {
		return "", templateError(err)
	}
	return b.String(), nil
}

// maxTemplate is how long a template of names may be: of a name of 253 characters.
const maxTemplate = 1000

// loopsIn says that a part of a template goes round, calls another or writes what has a width.
func loopsIn(n parse.Node) bool {
	switch n := n.(type) {
	case *parse.ListNode:
		return n != nil && slices.ContainsFunc(n.Nodes, loopsIn)
	case *parse.IfNode:
		return loopsIn(n.List) || n.ElseList != nil && loopsIn(n.ElseList)
	case *parse.ActionNode:
		return strings.Contains(n.String(), "printf")
	case *parse.TextNode, *parse.CommentNode:
		return false
	}
	return true
}

// templateError is what a template's error says, without where in its text.
func templateError(err error) error {
	text := err.Error()
	if i := strings.Index(text, `map has no entry for key "`); i >= 0 {
		label, _, _ := strings.Cut(text[i+len(`map has no entry for key "`):], `"`)
		return fmt.Errorf("the template uses the label %s, which is not in for_each.by", label)
	}
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return fmt.Errorf("the template cannot be used: %s", text)
}

// asked is a target and what the store said of it.
type asked struct {
	*instance
	replies map[string]reply
}

// targets are the targets of the rule, each with its share of the replies. Of a rule with for_each they are those that its
// series name, and those that they named not long ago.
func (s *Scaler) targets(ctx context.Context, at time.Time, replies map[string]reply) ([]asked, error) {
	f := s.rule.ForEach
	if f == nil {
		return []asked{{s.order[0], replies}}, nil
	}
	split := make(map[string]divided, len(replies))
	for name, r := range replies {
		split[name] = f.divide(r)
	}
	found, err := s.find(ctx, at, split)
	if err != nil {
		return nil, err
	}
	for _, key := range sortedKeys(found) {
		if err := s.name(at, key, found[key]); err != nil {
			return nil, err
		}
	}
	s.forget(at)
	all := make([]asked, 0, len(s.order))
	for _, i := range s.order {
		mine := make(map[string]reply, len(split))
		for name, d := range split {
			mine[name] = d.of(i.values)
		}
		all = append(all, asked{i, mine})
	}
	return all, nil
}

// find returns the values of the labels of each target that there is, by themselves in one text.
func (s *Scaler) find(ctx context.Context, at time.Time, split map[string]divided) (map[string][]string, error) {
	f := s.rule.ForEach
	found := map[string][]string{}
	collect := func(d divided) {
		for values := range d.samples {
			found[values] = strings.Split(values, separator)
		}
	}
	if f.Query == "" {
		for i := range s.rule.Signals {
			for name, d := range split {
				if s.rule.Signals[i].value.needs(name) {
					collect(d)
				}
			}
		}
	} else {
		samples, err := s.opts.Querier.Query(ctx, f.Query, at, 0)
		if err != nil {
			s.log.Warn("the query for the targets failed; those that are known go on", "err", err)
		}
		collect(f.divide(reply{samples: samples}))
	}
	if len(found) > f.Limit {
		return nil, fmt.Errorf("for_each finds %d targets, and its limit is %d: nothing is decided for any of them", len(found), f.Limit)
	}
	return found, nil
}

// name makes what has these labels one of the targets. Only evaluations, of which there is one at a time, add and drop any.
func (s *Scaler) name(at time.Time, values string, list []string) error {
	if i := s.named[values]; i != nil {
		i.seen = at
		return nil
	}
	f := s.rule.ForEach
	name, err := f.name(s.rule.Target.Name, list)
	if err != nil {
		return err
	}
	if !targetName.MatchString(name) {
		return fmt.Errorf("for_each makes the target name %q, which is none: expected letters, digits, - _ . and /", name)
	}
	target := actuators.Target{Kind: s.rule.Target.Kind, Name: name}
	if other := s.instances[target.String()]; other != nil {
		return fmt.Errorf("for_each gives the name %s to two targets: name all of %s in target.name", target, strings.Join(f.By, ", "))
	}
	if s.opts.Claim != nil {
		if err := s.opts.Claim(s.rule, target); err != nil {
			return err
		}
	}
	i := &instance{key: target.String(), target: target, labels: map[string]string{}, seen: at, values: values}
	for n, label := range f.By {
		i.labels[label] = list[n]
	}
	if other := s.opts.Memory.of(i.key).claim(s.rule.Name); other != "" {
		return fmt.Errorf("for_each finds the target %s, which rule %q scales", i.key, other)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(i)
	s.named[values] = i
	return nil
}

// forget drops targets that no series has named for long. They keep the size that they have.
func (s *Scaler) forget(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.order {
		if at.Sub(i.seen) > time.Duration(s.rule.ForEach.Forget) {
			delete(s.instances, i.key)
			delete(s.named, i.values)
			i.release(s.rule.Name)
			s.log.Info("a target that no series names any more is left as it is", "target", i.key)
		}
	}
	s.order = slices.DeleteFunc(s.order, func(i *instance) bool { return s.instances[i.key] == nil })
}

// separator is between the values of labels in one text. No label value of Prometheus's has it, being no UTF-8.
const separator = "\xff"

// divided is a reply by targets.
type divided struct {
	reply
	samples map[string][]Sample // by the values of the labels
	shared  []Sample            // without any of the labels: for all
	ages    map[string][]Sample
	old     []Sample // of what is shared
}

func (f *ForEach) divide(r reply) divided {
	d := divided{reply: r, samples: map[string][]Sample{}, ages: map[string][]Sample{}}
	for _, sample := range r.samples {
		if key, own := f.key(sample); own {
			d.samples[key] = append(d.samples[key], sample)
		} else {
			d.shared = append(d.shared, sample)
		}
	}
	for _, times := range r.ages {
		for _, sample := range times {
			if key, own := f.key(sample); own {
				d.ages[key] = append(d.ages[key], sample)
			} else {
				d.old = append(d.old, sample)
			}
		}
	}
	return d
}

// key is what the labels of a sample say whose it is.
func (f *ForEach) key(s Sample) (key string, own bool) {
	if len(f.By) == 1 {
		v := s.Labels.Get(f.By[0])
		return v, v != ""
	}
	values := make([]string, len(f.By))
	for i, name := range f.By {
		values[i] = s.Labels.Get(name)
		own = own || values[i] != ""
	}
	return strings.Join(values, separator), own
}

// of is the part that counts for a target.
func (d divided) of(values string) reply {
	r := d.reply
	r.samples = d.shared
	if own := d.samples[values]; len(own) > 0 {
		r.samples = own
		if len(d.shared) > 0 {
			r.samples = slices.Concat(own, d.shared)
		}
	}
	r.ages = nil
	for _, times := range [][]Sample{d.ages[values], d.old} {
		if len(times) > 0 {
			r.ages = append(r.ages, times)
		}
	}
	return r
}

// Release lets other rules have the targets that for_each found. The rule must not be evaluated any more.
func (s *Scaler) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.order {
		i.release(s.rule.Name)
	}
}

// inParallel calls do with each number below n, on so many goroutines, and returns when all have been.
func inParallel(goroutines, n int, do func(int)) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			do(i)
		}
	}
	var wg sync.WaitGroup
	for range min(goroutines, n) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}
