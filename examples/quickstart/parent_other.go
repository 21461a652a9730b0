//go:build !linux

package main

import "os/exec"

// endWithParent is for systems that can end a child with its parent; this one cannot, so after kill -9 of the quickstart
// itself its children are the user's to end.
func endWithParent(*exec.Cmd) {}
