package main

import "github.com/urfave/cli/v2"

func (p *program) pauseCommand() *cli.Command {
	return &cli.Command{
		Name:  "pause",
		Usage: "pause suspends all processes inside the container",
		ArgsUsage: `<container-id>

Where "<container-id>" is the name for the instance of the container to be
paused.`,
		Description: `The pause command suspends all processes in the instance of the container.

Use vc-runtime list to identify instances of containers and their current status.`,
		Before: arguments(1, 1),
		Action: p.with(func(c *cli.Context, rt verbs) error {
			return rt.Pause(c.Context, c.Args().First())
		}),
	}
}
