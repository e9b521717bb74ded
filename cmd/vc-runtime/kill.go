package main

import (
	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers/signals"
)

func (p *program) killCommand() *cli.Command {
	return &cli.Command{
		Name:  "kill",
		Usage: "kill sends the specified signal (default: that of the container's image, or else SIGTERM) to the container's init process",
		ArgsUsage: `<container-id> [signal]

Where "<container-id>" is the name for the instance of the container and
"[signal]" is the signal to be sent to the init process.

EXAMPLE:
For example, if the container id is "ubuntu01" the following will send a "KILL"
signal to the init process of the "ubuntu01" container:

       # vc-runtime kill ubuntu01 KILL`,
		Description: `With TERM and KILL the command returns when the container has stopped and
nothing holds its root filesystem. A container that does not end on TERM is
killed after a grace period. Without a signal it is SIGTERM, or the one that the
annotation org.opencontainers.image.stopSignal names, which then does the same.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "send the specified signal to all processes inside the container"},
		},
		Before: arguments(1, 2),
		Action: p.with(func(c *cli.Context, rt verbs) error {
			sig := signals.Default
			if text := c.Args().Get(1); text != "" {
				var err error
				if sig, err = signals.Parse(text); err != nil {
					return err
				}
			}
			return rt.Kill(c.Context, c.Args().First(), sig, c.Bool("all"))
		}),
	}
}
