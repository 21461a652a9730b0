package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"flyball/actuators"
	"flyball/actuators/keda"
	"flyball/actuators/none"
	"flyball/actuators/process"
	"flyball/rules"
	"flyball/rules/source"
)

// actuatorKinds is the one list of the kinds of targets that this binary has.
func actuatorKinds() []string {
	return append([]string{process.Kind, keda.Kind, none.Kind}, withKubernetes()...)
}

// checkKind says what is wrong with the kind of a target.
func checkKind(t actuators.Target) error {
	kinds := actuatorKinds()
	if slices.Contains(kinds, t.Kind) {
		return nil
	}
	return fmt.Errorf("target.kind: no actuator of kind %q: this version has %s%s%s", t.Kind, strings.Join(kinds, ", "),
		missingKind(t.Kind), source.DidYouMean(t.Kind, kinds))
}

// checkKinds says what is wrong with the kinds of a rule's targets.
func checkKinds(s *rules.Scale) error {
	if s.ForEach != nil {
		return checkKind(s.Target)
	}
	return eachTarget(s, func(t actuators.Target, _ int) error { return checkKind(t) })
}

// eachTarget checks each target of a rule and its most replicas. The paths in faults are those of the target, and max is
// beside it.
func eachTarget(s *rules.Scale, check func(t actuators.Target, most int) error) error {
	var errs []error
	if len(s.Variants) == 0 {
		return check(s.Target, s.Max)
	}
	for i, v := range s.Variants {
		for _, err := range unjoined(check(v.Target, v.Max)) {
			errs = append(errs, fmt.Errorf("variants[%d].%w", i, err))
		}
	}
	return errors.Join(errs...)
}

func unjoined(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// checkScale says what is wrong with the targets of a scale rule.
func (l *loaded) checkScale(s *rules.Scale) error {
	if s.ForEach != nil {
		return checkKind(s.Target) // its targets come with the data
	}
	return eachTarget(s, func(t actuators.Target, most int) error { return l.checkTarget(t, most) })
}

// checkTarget says why a rule cannot scale a target to so many replicas.
func (l *loaded) checkTarget(t actuators.Target, most int) error {
	if err := checkKind(t); err != nil {
		return err
	}
	if t.Kind == kubernetesKind {
		return l.checkKubernetes(t.Name, most)
	}
	if c, others := l.elsewhere()[t.Kind]; others {
		return checkElsewhere(t, c)
	}
	p, known := l.Actuators.Process[t.Name]
	if !known {
		return fmt.Errorf("target.name: no target %q in actuators.process%s", t.Name, source.DidYouMean(t.Name, l.targets()))
	}
	if most > p.MaxReplicas {
		return fmt.Errorf("max: %d, above actuators.process.%s.max_replicas, which is %d", most, t.Name, p.MaxReplicas)
	}
	return nil
}
