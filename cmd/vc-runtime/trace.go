package main

import (
	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/trace"
)

// trace begins the trace that --trace asks for, with the command as a whole as
// its first span. The function ends both.
func (p *program) trace(c *cli.Context) (stop func(), err error) {
	path, err := absolute("trace", c.String("trace"))
	if path == "" || err != nil {
		return func() {}, err
	}
	t, err := trace.Open(path, name+" "+c.Command.Name, c.Args().First())
	if err != nil {
		return nil, err
	}
	c.Context = trace.With(c.Context, t)
	span := trace.Begin(c.Context, trace.Command, c.Command.Name)
	return func() { span.End(); t.Close() }, nil
}

func (p *program) traceCommand() *cli.Command {
	return &cli.Command{
		Name:  "trace",
		Usage: "look into a trace that --trace has written",
		Description: `A trace is in the Trace Event Format: ui.perfetto.dev and chrome://tracing show it
as a timeline. It has the spans of the command, of the sandbox's monitor, of the
container's shim, and of the agent in the guest, whose clock is related to the
host's. Several commands can write into one trace.`,
		Action: noSubcommand,
		Subcommands: []*cli.Command{{
			Name:      "summary",
			Usage:     "print what took the time, command by command",
			ArgsUsage: `<file>`,
			Description: `For each command: how long it took, how many processes it started and how many
requests it made of other processes; then each span, with when it began and how
long it took, in milliseconds.`,
			HideHelpCommand: true,
			Before:          arguments(1, 1),
			Action: func(c *cli.Context) error {
				events, err := trace.Read(c.Args().First())
				if err != nil {
					return err
				}
				return trace.Summary(c.App.Writer, events)
			},
		}},
	}
}
