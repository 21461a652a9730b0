package process

import "time"

// child is one process that a replica runs, from its start to its end.
type child struct {
	pid   <-chan int                // receives the process id, once, if it was started
	done  <-chan struct{}           // closed when it has ended, and its supervisor with it
	stop  func(grace time.Duration) // asks its supervisor to end it: SIGTERM, then SIGKILL
	kill  func()                    // ends the supervisor too
	cause func() string             // why it ended; valid once done is closed
}

// output is where a child's output goes. The writers are called until the child is done.
type output struct {
	stdout, stderr *lines
}

// supervisorSlack is how long after the SIGKILL was due a supervisor may take to say that its replica is gone.
const supervisorSlack = 5 * time.Second

// end ends the child within the grace (plus supervisorSlack for a supervisor that hangs) and waits until it is gone.
func (c *child) end(grace time.Duration) {
	c.stop(max(grace, 0))
	timer := time.NewTimer(max(grace, 0) + supervisorSlack)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.kill()
		<-c.done
	}
}
