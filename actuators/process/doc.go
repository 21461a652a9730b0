// Package process is the actuator for model servers that run as processes of this machine: it starts and stops N
// replicas of a command, and keeps a list of those that are ready for the batching proxy to send to.
//
// [New] makes a [Processes] from the configuration, [Processes.Run] owns everything that it starts. Its size is set
// through the actuators.Actuator interface; [Processes.Endpoints] follows the addresses of a target's ready replicas and
// [Processes.Replicas] shows them all:
//
//	p, err := process.New(cfg, process.Options{Supervisor: []string{executable, "supervise"}, Drain: proxy.Drain})
//	go p.Run(ctx) // returns when ctx has ended and no replica is left
//	receipt, err := p.Apply(ctx, actuators.Target{Kind: "process", Name: "digits"}, actuators.Change{To: 3})
//	current, changes, err := p.Endpoints(ctx, "digits")
//
// # The life of a replica
//
// Each replica is given a free loopback port and is started. While starting, it is asked for its readiness; the first
// 200 makes it ready and puts it on the list. Three failures in a row take it off the list (unready) until it answers
// again. One that exits, is not ready within start_timeout, or stays unready for that long is ended and started again
// with a fresh port after a pause (backoff) that grows from restart_backoff.min to max. One that is to go is draining: it
// leaves the list first, then Options.Drain waits for what is in flight, then it is sent SIGTERM, and SIGKILL once the
// target's drain time has passed since it left the list.
//
// # No replica outlives its parent
//
// Each replica is held by a supervisor: the same program run again to call [Supervise]. The supervisor starts the command
// in a process group of its own and ends that group when the pipe to its parent closes, however the parent ended. Should
// the supervisor be killed too, Linux kills the replica. Being in another group also keeps a Ctrl-C on the terminal from
// reaching replicas before they were drained. Under systemd give the unit KillMode=mixed for the same reason, and where
// the parent is the first process of a container, run it with an init that reaps orphans.
package process
