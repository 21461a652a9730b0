package main

import (
	"fmt"
	"slices"
	"strings"

	"flyball/actuators"
	"flyball/actuators/process"
	"flyball/rules"
	"flyball/rules/source"
)

// actuatorKinds is the one list of the kinds of targets that this binary has.
var actuatorKinds = []string{process.Kind}

// checkKind says what is wrong with the kind of a target.
func checkKind(t actuators.Target) error {
	if slices.Contains(actuatorKinds, t.Kind) {
		return nil
	}
	return fmt.Errorf("target.kind: no actuator of kind %q: this version has %s%s", t.Kind, strings.Join(actuatorKinds, ", "),
		source.DidYouMean(t.Kind, actuatorKinds))
}

// checkScale says what is wrong with the target of a scale rule.
func (l *loaded) checkScale(s *rules.Scale) error {
	if err := checkKind(s.Target); err != nil {
		return err
	}
	t, known := l.Actuators.Process[s.Target.Name]
	if !known {
		return fmt.Errorf("target.name: no target %q in actuators.process%s", s.Target.Name, source.DidYouMean(s.Target.Name, l.targets()))
	}
	if s.Max > t.MaxReplicas {
		return fmt.Errorf("max: %d, above actuators.process.%s.max_replicas, which is %d", s.Max, s.Target.Name, t.MaxReplicas)
	}
	return nil
}
