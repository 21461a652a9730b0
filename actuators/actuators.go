package actuators

import (
	"context"
	"errors"
	"fmt"
)

// Target names one thing whose number of replicas can be changed.
type Target struct {
	Kind string `json:"kind" yaml:"kind"` // the platform: process, kubernetes, aws, ...
	Name string `json:"name" yaml:"name"` // its name on that platform
}

// String returns kind/name, the form used in the target label of metrics and in the journal.
func (t Target) String() string { return t.Kind + "/" + t.Name }

// State is the size of a target as its platform reports it now. All sizes are numbers of replicas.
type State struct {
	Spec    int // replicas asked for
	Ready   int // replicas that serve
	Pending int // replicas asked for that do not serve yet; Spec = Ready + Pending when nothing is draining

	// Version changes whenever Spec does, whoever changed it. A Change that carries it is refused with ErrConflict once
	// it is out of date.
	Version string

	// Fresh says that the platform keeps no size of its own over a restart and has not been given one yet. Only then
	// may the size that the journal remembers be restored.
	Fresh bool

	// Paused is where on the platform, such as in which annotation, somebody asks for the target to be left as it is. Empty:
	// nobody does.
	Paused string
}

// Change is one decision to be carried out. Sizes are absolute numbers of replicas.
type Change struct {
	From, To   int
	IfVersion  string // the State.Version that the decision was based on; empty for no precondition
	DecisionID string // identifies the decision; applying the same one twice has the effect of one
	Reason     string // for the platform's own log or event
	DryRun     bool   // check everything, change nothing
}

// Receipt says what a platform made of a Change.
type Receipt struct {
	Spec    int    // replicas asked for after the change
	Version string // State.Version after the change
	Changed bool   // false when the target already had that size, and in a dry run
}

// Actuator observes and changes the size of the targets of one platform. Its methods may be called from several
// goroutines at once.
type Actuator interface {
	// Observe returns the size of the target now. The error wraps ErrUnknownTarget for a target that the platform does
	// not have.
	Observe(ctx context.Context, target Target) (State, error)

	// Apply asks for another size and returns once the platform has taken the request, not once the replicas are ready.
	// The error wraps ErrUnknownTarget, ErrConflict, ErrOutOfRange or ErrRefused where one of those is the cause, and then
	// nothing was changed. After any other, such as a call that timed out, Observe tells.
	Apply(ctx context.Context, target Target, change Change) (Receipt, error)
}

// Teller is an Actuator that can tell people on the platform, such as by an Event, of what was not done.
type Teller interface {
	// TellHeld has it told on the target that its size is held, with the reason and what there is to say of it. It returns once
	// that was told, or given up.
	TellHeld(ctx context.Context, target Target, reason, note string)
}

// Errors that callers branch on.
var (
	ErrUnknownTarget = errors.New("unknown target")
	ErrConflict      = errors.New("the target changed since it was observed")
	ErrOutOfRange    = errors.New("size out of range")
	ErrRefused       = errors.New("refused") // such as for want of a permission

	// ErrOwned wraps ErrRefused: something else on the platform, such as an autoscaler, sets the size of the same target.
	ErrOwned = fmt.Errorf("%w: something else sets the size of the target", ErrRefused)
)
