package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
)

func (p *program) spareCommand() *cli.Command {
	return &cli.Command{
		Name:  "spare",
		Usage: "look after the virtual machines that wait for containers",
		Description: `With hypervisor.spares in the configuration virtual machines are started before
anybody has asked for them. Creates take them and have others made; these
commands are for whoever wants to do either by hand. Where they could not be
made creates do not try again for a while: ls says why, and until when.`,
		Action: noSubcommand,
		Subcommands: []*cli.Command{
			{
				Name:            "create",
				Usage:           "start those that are missing, and wait until they are ready",
				HideHelpCommand: true,
				Before:          arguments(0, 0),
				Action:          p.with(func(c *cli.Context, rt verbs) error { return rt.FillSpares(c.Context) }),
			},
			{
				Name:            "ls",
				Usage:           "list them",
				Flags:           []cli.Flag{formatFlag()},
				HideHelpCommand: true,
				Before:          arguments(0, 0),
				Action:          p.with(listSpares),
			},
			{
				Name:            "rm",
				Usage:           "end all of them; the next create that finds none has others made",
				HideHelpCommand: true,
				Before:          arguments(0, 0),
				Action:          p.with(func(c *cli.Context, rt verbs) error { return rt.EndSpares(c.Context) }),
			},
		},
	}
}

func listSpares(c *cli.Context, rt verbs) error {
	return printList(c, rt.Spares, spareTable)
}

func spareTable(w io.Writer, all []virtcontainers.Spare, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 1, 3, ' ', 0)
	fmt.Fprint(table, "ID\tAGE\tMONITOR\tVM\tTEMPLATE\tSTATE\n")
	for _, s := range all {
		if f := s.Failure; f != nil {
			fmt.Fprintf(table, "-\t%s\t-\t-\t-\tfailed (%d in a row; creates try again from %s on): %s\n",
				now.Sub(s.Created).Round(time.Second), f.Count, f.Retry.Local().Format(time.TimeOnly), f.Error)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", s.ID, now.Sub(s.Created).Round(time.Second), s.Monitor, s.VM, s.Template, s.State)
	}
	return table.Flush()
}
