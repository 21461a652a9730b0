// Package actuatortest is what every actuator is tested with, and an actuator to test others with.
//
// [Run] is the conformance suite. A platform passes it when a rule may rely on it: sizes are absolute, a stale version
// changes nothing, a dry run changes nothing, the same decision counts once. A platform's test is one call:
//
//	func TestConformance(t *testing.T) {
//		actuatortest.Run(t, actuatortest.Harness{
//			New:    func(t *testing.T) actuators.Actuator { return newPlatform(t) },
//			Target: actuators.Target{Kind: "process", Name: "digits"},
//			Max:    8,
//		})
//	}
//
// [Fake] is an actuator in memory that passes the suite. Its zero value has every target at size 0; it can be made to
// fail and to be slow to get ready, and it records the changes it was given:
//
//	var fake actuatortest.Fake
//	engine := rules.NewEngine(..., &fake)
//	...
//	if diff := cmp.Diff(want, fake.Changes()); diff != "" { ... }
package actuatortest
