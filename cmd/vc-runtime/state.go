package main

import (
	"encoding/json"

	"github.com/urfave/cli/v2"
)

func (p *program) stateCommand() *cli.Command {
	return &cli.Command{
		Name:  "state",
		Usage: "output the state of a container",
		ArgsUsage: `<container-id>

Where "<container-id>" is your name for the instance of the container.`,
		Description: `The state command outputs current state information for the
instance of a container.`,
		Before: arguments(1, 1),
		Action: p.with(func(c *cli.Context, rt verbs) error {
			state, err := rt.State(c.Context, c.Args().First())
			if err != nil {
				return err
			}
			enc := json.NewEncoder(c.App.Writer)
			enc.SetIndent("", "  ")
			return enc.Encode(state)
		}),
	}
}
