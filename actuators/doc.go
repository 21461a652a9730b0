// Package actuators is the vocabulary of acting: what can be given another size, the size it has, the change that a
// decision asks for, and the small interface that carries the change out.
//
// Each subfolder is one platform (process starts and stops model servers on this machine). An [Actuator] is handed
// absolute sizes only, so that applying the same [Change] twice is the same as applying it once. The conformance suite
// that every platform has to pass is in actuators/actuatortest.
//
//	a := process.New(...)
//	state, err := a.Observe(ctx, actuators.Target{Kind: "process", Name: "digits"})
//	receipt, err := a.Apply(ctx, target, actuators.Change{From: state.Spec, To: 3, IfVersion: state.Version, DecisionID: id})
package actuators
