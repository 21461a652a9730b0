package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// children are the programs that a run has started. Each has its log in dir.
type children struct {
	dir string
	env []string
	all []*child
}

// child is one of them.
type child struct {
	name  string
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{} // closed once it has, and err is set
	err   error
}

// patience is how long a child may take to be ready, and then to end before it is killed: a busy machine needs seconds.
const patience = 20 * time.Second

// start starts a program, which ends with stop or with ctx.
func (c *children) start(ctx context.Context, name, program string, args ...string) (*child, error) {
	log, err := os.Create(filepath.Join(c.dir, strings.NewReplacer(" ", "-", "/", "-").Replace(name)+".log"))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ch := &child{name: name, cmd: exec.CommandContext(ctx, program, args...), log: log, ended: make(chan struct{})}
	ch.cmd.Stdout, ch.cmd.Stderr, ch.cmd.Env = log, log, c.env
	ch.cmd.Cancel = func() error { return ch.cmd.Process.Signal(syscall.SIGTERM) }
	ch.cmd.WaitDelay = patience
	if err := ch.cmd.Start(); err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.all = append(c.all, ch)
	go func() { // ends with the child, which stop waits for
		ch.err = ch.cmd.Wait()
		close(ch.ended)
	}()
	return ch, nil
}

// pid is that of the process.
func (ch *child) pid() int { return ch.cmd.Process.Pid }

// ready waits until a GET of the url is answered, whatever the answer.
func (ch *child) ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", ch.name, err)
		}
		answer, err := transport.RoundTrip(r)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode < http.StatusInternalServerError {
				return nil
			}
			err = errors.New(answer.Status)
		}
		select {
		case <-again.C:
		case <-ch.ended:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", ch.name, errors.Join(ch.err, ctx.Err()), ch.said())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %w\n%s", ch.name, patience, err, ch.said())
		}
	}
}

// said is the end of its log.
func (ch *child) said() string {
	const most = 4 << 10
	text, err := os.ReadFile(ch.log.Name())
	if err != nil {
		return err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return string(bytes.TrimSpace(text))
}

// died is the error of a child that has ended by itself, if one has.
func (c *children) died() error {
	for _, ch := range c.all {
		select {
		case <-ch.ended:
			return fmt.Errorf("%s ended in mid-run: %w\n%s", ch.name, ch.err, ch.said())
		default:
		}
	}
	return nil
}

// stop ends all children, the last one first, and returns when they have ended.
func (c *children) stop() {
	var wait sync.WaitGroup
	for _, ch := range slices.Backward(c.all) {
		_ = ch.cmd.Process.Signal(syscall.SIGTERM) // an error is that it has ended
		wait.Go(func() {
			late := time.NewTimer(patience)
			defer late.Stop()
			select {
			case <-ch.ended:
			case <-late.C:
				_ = ch.cmd.Process.Kill()
				<-ch.ended
			}
			ch.log.Close()
		})
	}
	wait.Wait()
	c.all = nil
}

// freeAddress is an address of the loopback interface where nothing listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// writeFile writes a child's configuration, and returns its path.
func (c *children) writeFile(name, text string) (string, error) {
	path := filepath.Join(c.dir, strings.ReplaceAll(name, " ", "-"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration: %w", err)
	}
	return path, nil
}

// showLogs writes the end of every log that is not empty.
func (c *children) showLogs(w io.Writer) {
	for _, ch := range c.all {
		if text := ch.said(); text != "" {
			fmt.Fprintf(w, "== the end of %s's log\n%s\n", ch.name, text)
		}
	}
}
