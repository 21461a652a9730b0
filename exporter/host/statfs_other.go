//go:build !linux

package host

import "errors"

func statfs(string) (space, error) { return space{}, errors.ErrUnsupported }
