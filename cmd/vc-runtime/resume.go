package main

import "github.com/urfave/cli/v2"

func (p *program) resumeCommand() *cli.Command {
	return &cli.Command{
		Name:  "resume",
		Usage: "resumes all processes that have been previously paused",
		ArgsUsage: `<container-id>

Where "<container-id>" is the name for the instance of the container to be
resumed.`,
		Description: `The resume command resumes all processes in the instance of the container.

Use vc-runtime list to identify instances of containers and their current status.`,
		Before: arguments(1, 1),
		Action: p.with(func(c *cli.Context, rt verbs) error {
			return rt.Resume(c.Context, c.Args().First())
		}),
	}
}
