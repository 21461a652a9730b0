package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

func freezeCommand(app *kingpin.Application, stdout io.Writer) command {
	c := app.Command("freeze", "Stop all acting of a running flyball (which has --web.enable-lifecycle) until resume: rules go on deciding and recording.")
	var s server
	s.flags(c)
	why := c.Flag("why", "For those who find it stopped.").String()
	return command{c.FullCommand(), func(ctx context.Context) error {
		return s.brake(ctx, stdout, url.Values{"why": {*why}})
	}}
}

func pauseCommand(app *kingpin.Application, stdout io.Writer) command {
	c := app.Command("pause", "Stop acting on one target of a running flyball (which has --web.enable-lifecycle) for a while.")
	var s server
	target := c.Arg("target", "As kind/name, or the rule that scales it.").Required().String()
	s.flags(c)
	length := c.Flag("for", "How long, such as 2h or 1d; 0s: until resume.").Default("1h").String()
	why := c.Flag("why", "For those who find it paused.").String()
	return command{c.FullCommand(), func(ctx context.Context) error {
		return s.brake(ctx, stdout, url.Values{"target": {*target}, "for": {*length}, "why": {*why}})
	}}
}

func resumeCommand(app *kingpin.Application, stdout io.Writer) command {
	c := app.Command("resume", "Let a running flyball (which has --web.enable-lifecycle) act again after freeze, or on a target after pause.")
	var s server
	target := c.Arg("target", "That was paused, as kind/name or by its rule; without it the freeze ends.").String()
	s.flags(c)
	return command{c.FullCommand(), func(ctx context.Context) error {
		form := url.Values{"release": {"1"}}
		if *target != "" {
			form.Set("target", *target)
		}
		return s.brake(ctx, stdout, form)
	}}
}

// brake posts a form to /-/freeze, and writes what the server answers.
func (s *server) brake(ctx context.Context, stdout io.Writer, form url.Values) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	response, err := s.do(ctx, http.MethodPost, "/-/freeze", form)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", s.url, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s: %s", s.url, response.Status, strings.TrimSpace(string(text)))
	}
	_, err = stdout.Write(text)
	return err
}
