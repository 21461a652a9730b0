package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/common/model"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// LeaseConfig is the Lease by which several processes agree on the one that acts.
type LeaseConfig struct {
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`

	// Identity is this process in the Lease: of no two the same, and for the fence the name of the pod. Empty for $POD_NAME or,
	// where that is not set, the host's name, which a pod has from its own.
	Identity string `yaml:"identity"`

	// Duration is how long the others wait for a renewal before they take over, in whole seconds; RenewDeadline how long who
	// leads acts after its last one; RetryPeriod how often each tries.
	Duration      model.Duration `yaml:"duration"`
	RenewDeadline model.Duration `yaml:"renew_deadline"`
	RetryPeriod   model.Duration `yaml:"retry_period"`
}

// SetDefaults sets what holds where the configuration says nothing: the times of Kubernetes's own controllers.
func (c *LeaseConfig) SetDefaults() {
	*c = LeaseConfig{
		Identity: os.Getenv("POD_NAME"),
		Duration: model.Duration(15 * time.Second), RenewDeadline: model.Duration(10 * time.Second), RetryPeriod: model.Duration(2 * time.Second),
	}
	if c.Identity == "" {
		c.Identity, _ = os.Hostname() // one that is not known is a fault
	}
}

// Validate returns all faults joined. Each begins with the path of the field.
func (c *LeaseConfig) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Namespace == "" {
		fault("namespace: empty: give that of the Lease")
	} else if wrong := validation.IsDNS1123Label(c.Namespace); len(wrong) > 0 {
		fault("namespace: %q is no namespace: %s", c.Namespace, wrong[0])
	}
	if c.Name == "" {
		fault("name: empty: give that of the Lease, such as flyball")
	} else if wrong := validation.IsDNS1123Subdomain(c.Name); len(wrong) > 0 {
		fault("name: %q is no name of a Lease: %s", c.Name, wrong[0])
	}
	if c.Identity == "" {
		fault("identity: empty: give a name that no other flyball has, such as that of the pod")
	}
	duration, deadline, retry := time.Duration(c.Duration), time.Duration(c.RenewDeadline), time.Duration(c.RetryPeriod)
	if duration < time.Second || duration%time.Second != 0 {
		fault("duration: %s: give whole seconds, such as 15s", duration)
	}
	if retry <= 0 {
		fault("retry_period: %s: give more than 0s, such as 2s", retry)
	}
	if deadline <= time.Duration(leaderelection.JitterFactor*float64(retry)) {
		fault("renew_deadline: %s: give more than %g times retry_period, which is %s", deadline, leaderelection.JitterFactor, retry)
	}
	if deadline >= duration {
		fault("renew_deadline: %s: give less than duration, which is %s: else two act", deadline, duration)
	}
	return errors.Join(faults...)
}

// Lease says whether this process is the one that acts, by a Lease in the actuator's cluster.
type Lease struct {
	k      *Kubernetes
	config LeaseConfig
	log    *slog.Logger

	mu      sync.Mutex  // guards what follows
	held    bool        // as this process knows
	renewed time.Time   // when the last renewal that succeeded was asked for
	through *client     // the cluster that it was asked of
	wrote   []time.Time // renewals by this process that the Lease may have: the last that succeeded, and those of unknown end after it
	leader  string      // the other that has it; "": nobody, or unknown
	failed  string      // why it could not be asked for, as it was logged
	now     func() time.Time
}

// NewLease returns the election of a configuration that is valid.
func (k *Kubernetes) NewLease(c LeaseConfig) *Lease {
	return &Lease{k: k, config: c, log: k.log, now: time.Now}
}

// Leads says whether this process has the Lease and has renewed it within the deadline: one that was stopped, and woken after
// others took over, does not lead although it has heard of nothing yet. Neither a clock that is set back nor a machine that
// slept, for which the monotonic clock stands still, prolongs it.
func (l *Lease) Leads() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, deadline := l.now(), time.Duration(l.config.RenewDeadline)
	return l.held && now.Sub(l.renewed) < deadline && now.Round(0).Sub(l.renewed.Round(0)) < deadline &&
		l.through == l.k.client.Load()
}

// Leader is the other process that has the Lease; empty while that is this one, or not known.
func (l *Lease) Leader() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader
}

// Run takes part in the election until ctx ends, and gives the Lease up then, so that another need not wait for it.
func (l *Lease) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, logr.Discard()) // what it says of each try is said on changes alone
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &leaseLock{LeaseLock: resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: l.config.Namespace, Name: l.config.Name},
			LockConfig: resourcelock.ResourceLockConfig{Identity: l.config.Identity},
		}, l: l},
		LeaseDuration: time.Duration(l.config.Duration), RenewDeadline: time.Duration(l.config.RenewDeadline),
		RetryPeriod: time.Duration(l.config.RetryPeriod), ReleaseOnCancel: true, Name: l.config.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {},
			OnStoppedLeading: func() { l.lose("the Lease was not renewed in time, or is given up") },
		},
	})
	if err != nil {
		return fmt.Errorf("election: %w", err)
	}
	l.checkFence(ctx)
	for ctx.Err() == nil {
		elector.Run(ctx)
	}
	return nil
}

func (l *Lease) describe() string { return l.config.Namespace + "/" + l.config.Name }

// won notes a renewal that succeeded.
func (l *Lease) won(asked, written time.Time, through *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held {
		l.log.Info("this flyball acts", "lease", l.describe(), "identity", l.config.Identity)
	}
	l.held, l.renewed, l.through, l.leader, l.failed = true, asked, through, "", ""
	l.wrote = append(l.wrote[:0], written)
}

// lose notes that this process has the Lease no more.
func (l *Lease) lose(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held {
		l.log.Warn("this flyball does not act any more", "lease", l.describe(), "identity", l.config.Identity, "why", why)
	}
	l.held = false
}

// found notes who has the Lease, and says whether that is this very process: another may have its identity.
func (l *Lease) found(holder string, renewed time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = ""
	if holder == l.config.Identity && slices.ContainsFunc(l.wrote, renewed.Equal) {
		return true
	}
	if l.held {
		l.log.Warn("this flyball does not act any more", "lease", l.describe(), "identity", l.config.Identity, "why", "another has the Lease")
	}
	if l.held = false; holder != l.leader {
		if l.leader = holder; holder != "" {
			l.log.Info("another flyball acts", "leader", holder, "lease", l.describe())
		}
	}
	return false
}

// complain has in the log, once, why the Lease cannot be asked for or had.
func (l *Lease) complain(err error) {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return // another was faster
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := err.Error(); text != l.failed {
		l.failed = text
		l.log.Error("the Lease cannot be had", "lease", l.describe(), "err", err)
	}
}

// leaseLock is client-go's lock over the cluster that the actuator has at the time, which notes what becomes of each request.
type leaseLock struct {
	resourcelock.LeaseLock
	l      *Lease
	others bool // what was read last: somebody else has the Lease
}

// begin gives a request a part of the time in which the Lease has to be renewed, so that one that hangs is not the last.
func (k *leaseLock) begin(ctx context.Context) (context.Context, context.CancelFunc, *client, error) {
	c := k.l.k.client.Load()
	if c == nil {
		return nil, nil, nil, errors.New("actuators.kubernetes is not configured")
	}
	k.Client = c.leases
	ctx, cancel := context.WithTimeout(ctx, max(time.Duration(k.l.config.RenewDeadline)/2, time.Duration(k.l.config.RetryPeriod)))
	return ctx, cancel, c, nil
}

// Get implements resourcelock.Interface. A Lease that another process with the same identity has is given to client-go as
// somebody else's: it would be taken for its own.
func (k *leaseLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	ctx, cancel, _, err := k.begin(ctx)
	if err != nil {
		k.l.complain(err)
		return nil, nil, err
	}
	defer cancel()
	record, raw, err := k.LeaseLock.Get(ctx)
	if err != nil {
		if !apierrors.IsNotFound(err) && ctx.Err() == nil {
			k.l.complain(err)
		}
		return nil, nil, err
	}
	mine := k.l.found(record.HolderIdentity, record.RenewTime.Time)
	if k.others = !mine && record.HolderIdentity != ""; k.others && record.HolderIdentity == k.l.config.Identity {
		record.HolderIdentity += " (another process)"
	}
	return record, raw, nil
}

// Create implements resourcelock.Interface.
func (k *leaseLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return k.write(ctx, record, k.LeaseLock.Create)
}

// Update implements resourcelock.Interface.
func (k *leaseLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return k.write(ctx, record, k.LeaseLock.Update)
}

// unanswered is how many renewals of unknown end are remembered: more are not tried within a deadline.
const unanswered = 64

func (k *leaseLock) write(ctx context.Context, record resourcelock.LeaderElectionRecord, do func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	mine := record.HolderIdentity == k.l.config.Identity
	if !mine {
		k.l.lose("the Lease is given up") // before it is asked for
		// client-go gives up what it last knew to be its own, with the version that it has just read: of one that was stopped for
		// so long that another took over, that is the other's.
		if k.others {
			return errors.New("another has the Lease")
		}
	}
	ctx, cancel, through, err := k.begin(ctx)
	if err != nil {
		k.l.complain(err)
		return err
	}
	defer cancel()
	written := record.RenewTime.Truncate(time.Microsecond) // as a Lease keeps it
	k.l.mu.Lock()
	asked := k.l.now()
	if mine {
		k.l.wrote = append(k.l.wrote[max(0, len(k.l.wrote)-unanswered):], written)
	}
	k.l.mu.Unlock()
	if err := do(ctx, record); err != nil {
		k.l.complain(err)
		return err
	}
	if mine {
		k.l.won(asked, written, through)
	}
	return nil
}

// Fence is the name of the ValidatingAdmissionPolicy, and of its binding, by which the apiserver refuses the writes of whoever
// has not the Lease.
const Fence = "flyball-fence"

// checkFence says in the log whether the apiserver fences. It is no condition: an election without it is as good as others.
func (l *Lease) checkFence(ctx context.Context) {
	c := l.k.client.Load()
	if c == nil {
		return
	}
	for _, resource := range []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"} {
		limited, cancel := c.limited(ctx)
		_, err := c.objects.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource}).
			Get(limited, Fence, metav1.GetOptions{})
		cancel()
		switch {
		case err == nil:
		case apierrors.IsNotFound(err):
			l.log.Warn("the apiserver does not fence: a flyball that was stopped and woken is kept from writing by its own clock alone",
				"missing", resource+"/"+Fence)
			return
		case apierrors.IsForbidden(err):
			l.log.Info("whether the apiserver fences cannot be told: the role does not give get on it", "resource", resource, "resourceName", Fence)
			return
		default:
			l.log.Warn("whether the apiserver fences cannot be told", "err", err)
			return
		}
	}
	l.log.Info("the apiserver fences: it takes changes from who has the Lease alone", "policy", Fence)
}

var _ resourcelock.Interface = (*leaseLock)(nil)

// newLeases is a client for the Lease alone: its requests wait behind no others.
func newLeases(c *Config, userAgent string) (coordinationv1.LeasesGetter, error) {
	base, err := c.rest()
	if err != nil {
		return nil, err
	}
	base.UserAgent, base.QPS = userAgent, -1
	leases, err := coordinationv1.NewForConfig(base)
	if err != nil {
		return nil, unusable(err)
	}
	return leases, nil
}
