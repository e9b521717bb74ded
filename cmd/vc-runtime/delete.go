package main

import "github.com/urfave/cli/v2"

func (p *program) deleteCommand() *cli.Command {
	return &cli.Command{
		Name:  "delete",
		Usage: "delete any resources held by the container often used with detached container",
		ArgsUsage: `<container-id>

Where "<container-id>" is the name for the instance of the container.

EXAMPLE:
For example, if the container id is "ubuntu01" and vc-runtime list currently
shows the status of "ubuntu01" as "stopped" the following will delete resources
held for "ubuntu01" removing "ubuntu01" from the vc-runtime list of containers:

       # vc-runtime delete ubuntu01`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "Forcibly deletes the container if it is still running (uses SIGKILL)"},
		},
		Before: arguments(1, 1),
		Action: p.with(func(c *cli.Context, rt verbs) error {
			return rt.Delete(c.Context, c.Args().First(), c.Bool("force"))
		}),
	}
}
