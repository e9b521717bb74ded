package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "create and run a container",
		ArgsUsage: `<container-id>

Where "<container-id>" is your name for the instance of the container that you
are starting. The name you provide for the container instance must be unique on
your host.`,
		Description: `The run command creates an instance of a container for a bundle. The bundle
is a directory with a specification file named "config.json" and a root
filesystem.

The specification file includes an args parameter. The args parameter is used
to specify command(s) that get run when the container is started. To change the
command(s) that get executed on start, edit the args parameter of the spec. See
"vc-runtime spec --help" for more explanation.`,
		Flags: append(createFlags(),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "detach from the container's process"},
			&cli.BoolFlag{Name: "keep", Usage: "do not delete the container after it exits"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "disable the use of the subreaper used to reap reparented processes"},
		),
		Before: arguments(1, 1),
		Action: p.with(p.runContainer),
	}
}

// runContainer exits with the container's code, unless it is detached.
func (p *program) runContainer(c *cli.Context, rt verbs) error {
	create, err := p.createOptions(c)
	code := 0
	if err == nil {
		code, err = rt.Run(c.Context, virtcontainers.RunOptions{
			CreateOptions: create,
			Detach:        c.Bool("detach"),
			Keep:          c.Bool("keep"),
			NoSubreaper:   c.Bool("no-subreaper"),
		})
	}
	if err != nil {
		return fmt.Errorf("%s run failed: %w", name, err)
	}
	return exitWith(code)
}
