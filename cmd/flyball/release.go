package main

import (
	"context"
	"io"

	"github.com/alecthomas/kingpin/v2"
)

func releaseCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := app.Command("release", "Give HPAs and ScaledObjects back what conflict: floor or adopt took of them, as it was; for targets that no rule has any more.")
	targets := c.Arg("target", "Kubernetes targets, as in ml/deployments.apps/llama.").Required().Strings()
	path := c.Flag("config.file", "The configuration file, which has the cluster.").Default("flyball.yml").String()
	dryRun := c.Flag("dry-run", "Say what would be done; the apiserver checks it, and changes nothing.").Bool()
	return command{c.FullCommand(), func(ctx context.Context) error {
		l, err := load(*path)
		if err != nil {
			return err
		}
		return l.giveBack(ctx, stdout, stderr, *targets, *dryRun)
	}}
}
