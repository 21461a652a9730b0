//go:build !unix

package batchproxy

// canTellQuiet says that quiet can tell.
const canTellQuiet = false

func (*wireConn) quiet() bool { return false }
