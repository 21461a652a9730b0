// Package election says which of several processes on one machine is the one that acts: who has the lock of a file.
//
//	f := election.New("/run/flyball/leader", election.Options{Logger: log})
//	go f.Run(ctx)
//	if f.Leads() { ... }
//
// The lock is flock's, so the kernel gives it up when the process ends, whatever ends it. It is no lock between machines: a
// file system that several of them mount may keep one for each.
package election
