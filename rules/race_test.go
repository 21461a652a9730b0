//go:build race

package rules

// underRace says that the race detector is on, which makes tests that draw many rules take six times as long, and finds nothing in
// what one goroutine does.
const underRace = true
