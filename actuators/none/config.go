package none

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Any is the entry of a [Config] for targets that have none of their own, such as those that a rule with for_each finds.
const Any = "*"

// Config is the targets by name.
type Config map[string]Target

// Target says how many replicas there are where flyball does not set them. It needs Replicas or Initial: a size to begin
// with. In the PromQL of both queries {{.Name}} is the target's name; an answer is one series, or one number.
type Target struct {
	// Replicas is PromQL for the replicas asked for, as the platform has them.
	Replicas string `yaml:"replicas"`

	// Ready is PromQL for those that serve. Empty: all that Replicas gives or, without it, all.
	Ready string `yaml:"ready"`

	// Initial is the size to begin with where nothing was decided before and there is no Replicas.
	Initial *int `yaml:"initial"`
}

// targetName is what may name a target: it appears in metrics, in addresses of the page and on the command line.
var targetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)

// namePlace is where the target's name goes in a query.
var namePlace = regexp.MustCompile(`\{\{\s*\.Name\s*\}\}`)

// Validate returns all faults joined, but for those of PromQL. Each begins with the path of the field, from the target's
// name on.
func (c Config) Validate() error {
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(c)) {
		t := c[name]
		fault := func(field, format string, args ...any) {
			faults = append(faults, fmt.Errorf("%s%s: %w", name, field, fmt.Errorf(format, args...)))
		}
		if name != Any && !targetName.MatchString(name) {
			fault("", "%q is not a target name: use letters, digits, '.', '_', '-' and '/', beginning with a letter or digit, or %q for all others", name, Any)
		}
		switch {
		case t.Replicas == "" && t.Initial == nil:
			fault("", "neither replicas, PromQL for how many there are, nor initial, how many to begin with: give one of them")
		case t.Replicas != "" && t.Initial != nil:
			fault(".initial", "never used, since replicas says how many there are: leave one of them out")
		case t.Initial != nil && (*t.Initial < 0 || *t.Initial > maxReplicas):
			fault(".initial", "%d is not a number of replicas: give 0 or more", *t.Initial)
		}
		for field, expr := range t.Queries() {
			if strings.Contains(Expand(expr, "name"), "{{") {
				fault("."+field, "only {{.Name}}, the target's name, is filled in")
			}
		}
	}
	return errors.Join(faults...)
}

// Queries are the PromQL of a target by their keys, those that there are.
func (t Target) Queries() map[string]string {
	all := map[string]string{"replicas": t.Replicas, "ready": t.Ready}
	maps.DeleteFunc(all, func(_, expr string) bool { return expr == "" })
	return all
}

// Expand fills the name of a target into the PromQL of one of its queries.
func Expand(expr, name string) string { return namePlace.ReplaceAllLiteralString(expr, name) }

// Of returns the entry of a target, its own or that of [Any].
func (c Config) Of(name string) (t Target, known bool) {
	if t, known = c[name]; !known {
		t, known = c[Any]
	}
	return t, known
}
