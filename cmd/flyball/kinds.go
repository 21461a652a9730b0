package main

import (
	"fmt"
	"strings"

	"flyball/actuators"
	"flyball/actuators/process"
	"flyball/rules/source"
)

// actuatorKinds is the one list of the kinds of targets that this binary has.
var actuatorKinds = []string{process.Kind}

// checkKind says what is wrong with the kind of a target.
func checkKind(t actuators.Target) error {
	for _, kind := range actuatorKinds {
		if t.Kind == kind {
			return nil
		}
	}
	return fmt.Errorf("target.kind: no actuator of kind %q: this version has %s%s", t.Kind, strings.Join(actuatorKinds, ", "),
		source.DidYouMean(t.Kind, actuatorKinds))
}

// checkTarget says what is wrong with the target of a scale rule.
func (l *loaded) checkTarget(t actuators.Target) error {
	if err := checkKind(t); err != nil {
		return err
	}
	if _, known := l.Actuators.Process[t.Name]; !known {
		return fmt.Errorf("target.name: no target %q in actuators.process%s", t.Name, source.DidYouMean(t.Name, l.targets()))
	}
	return nil
}
