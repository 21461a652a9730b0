package process

import (
	"bytes"
	"strings"
	"sync"
)

// maxLine is how much of a line of a replica's output is kept, in bytes. What is beyond is dropped up to the line's end.
const maxLine = 4 << 10

// lines is a writer that hands on what is written to it line by line, and remembers the last line that is not blank.
// Its fields are set before the first write.
type lines struct {
	emit func(line string) // is called with the lock held

	mu   sync.Mutex
	part []byte // the beginning of a line whose end is yet to come; at most maxLine
	seen string
}

// Write never fails and never takes less than all.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		l.part = append(l.part, line[:min(len(line), maxLine-len(l.part))]...)
		if !ended {
			return n, nil
		}
		l.flush()
		p = rest
	}
}

// last returns the last line that was not blank, whether or not it has ended.
func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.flush()
	}
	return l.seen
}

func (l *lines) flush() {
	line := strings.ToValidUTF8(strings.TrimRight(string(l.part), " \t\r"), "\uFFFD")
	l.part = l.part[:0]
	if strings.TrimSpace(line) == "" {
		return
	}
	l.seen = line
	if l.emit != nil {
		l.emit(line)
	}
}
