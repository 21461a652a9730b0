package batchproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// AccessLog says where a line is written for each request; the zero value is nowhere.
type AccessLog struct {
	// Path is a file, which is appended to, or stdout. A relative one is below the working directory.
	Path string `yaml:"path"`
	// Format is json; empty is json.
	Format string `yaml:"format"`
}

const (
	accessStdout = "stdout"
	accessJSON   = "json"
)

func (c AccessLog) validate() error {
	var faults []error
	switch c.Format {
	case "", accessJSON:
	default:
		faults = append(faults, fmt.Errorf("format: %q is not a format of the access log: give json", c.Format))
	}
	if c.Path == "" && c.Format != "" {
		faults = append(faults, errors.New("path: empty: give a file, or stdout"))
	}
	return errors.Join(faults...)
}

const (
	// accessLines wait to be written: half a second of 8,000 requests a second, in some 2 MB.
	accessLines = 4096
	// reopenAfter is how long a file that could not be written is left alone.
	reopenAfter = 10 * time.Second
	// lastLines is how long a shutdown waits for the last lines.
	lastLines = 2 * time.Second
)

// accessLog writes lines without ever making a request wait: where the disk is too slow for them, some are dropped and
// counted.
type accessLog struct {
	path    string
	stdout  io.Writer
	logger  *slog.Logger
	dropped prometheus.Counter
	lines   chan []byte
	again   chan struct{} // asks for the file to be opened again
}

// newAccessLog sees that the file can be written.
func newAccessLog(c AccessLog, stdout io.Writer, logger *slog.Logger, dropped prometheus.Counter) (*accessLog, error) {
	l := &accessLog{path: c.Path, stdout: stdout, logger: logger, dropped: dropped, lines: make(chan []byte, accessLines), again: make(chan struct{}, 1)}
	if l.stdout == nil {
		l.stdout = os.Stdout
	}
	f, err := l.open()
	if err != nil {
		return nil, fmt.Errorf("access_log.path: %w", err)
	}
	return l, f.Close()
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

func (l *accessLog) open() (io.WriteCloser, error) {
	if l.path == accessStdout {
		return unclosed{l.stdout}, nil
	}
	return os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640) // the addresses of clients are not everybody's business
}

// add has a line written, or drops it.
func (l *accessLog) add(line accessLine) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil { // texts and numbers always can be
		l.dropped.Inc()
		return
	}
	select {
	case l.lines <- text.Bytes():
	default:
		l.dropped.Inc()
	}
}

func (l *accessLog) reopen() {
	select {
	case l.again <- struct{}{}:
	default: // is asked for already
	}
}

// run writes lines until ctx ends, and then those that there are.
func (l *accessLog) run(ctx context.Context) {
	var file io.WriteCloser
	var retry time.Time // when a file that failed is tried again
	shut := func() {
		if file != nil {
			_ = file.Close() // each write has told already
			file = nil
		}
	}
	defer shut()
	batch := make([]byte, 0, 64<<10)
	write := func(first []byte) {
		batch = append(batch[:0], first...)
		n := 1
		for more := true; more && len(batch) < 48<<10; { // whole lines at once: another process may append to the file too
			select {
			case line := <-l.lines:
				batch = append(batch, line...)
				n++
			default:
				more = false
			}
		}
		var err error
		if file == nil {
			if time.Now().Before(retry) {
				l.dropped.Add(float64(n))
				return
			}
			file, err = l.open()
		}
		if err == nil {
			_, err = file.Write(batch)
		}
		if err != nil {
			shut()
			retry = time.Now().Add(reopenAfter)
			l.dropped.Add(float64(n))
			l.logger.Warn("the access log cannot be written; its lines are dropped for a while", "path", l.path, "err", err)
		}
	}
	for {
		select {
		case line := <-l.lines:
			write(line)
		case <-l.again:
			shut()
			retry = time.Time{}
		case <-ctx.Done():
			for {
				select {
				case line := <-l.lines:
					write(line)
				default:
					return
				}
			}
		}
	}
}
