package main

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
)

// spliced is one line of the Go benchmark of merging and splitting.
type spliced struct {
	name        string // such as v1
	allocations float64
}

// parseSplice reads what BenchmarkSplice prints: the lines of 32 requests of 768 floats that the proxy does.
func parseSplice(out []byte) []spliced {
	var all []spliced
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		full, ok := strings.CutPrefix(fields[0], "BenchmarkSplice/")
		name, _, sized := strings.Cut(full, "/32x768/splice")
		if !ok || !sized {
			continue
		}
		s := spliced{name: name}
		for i := 1; i+1 < len(fields); i++ {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				continue
			}
			if fields[i+1] == "allocs/op" {
				s.allocations = v
			}
		}
		all = append(all, s)
	}
	return all
}
