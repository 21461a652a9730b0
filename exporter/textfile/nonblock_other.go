//go:build !unix

package textfile

const nonblocking = 0
