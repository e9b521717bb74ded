package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
)

var errFormat = errors.New("invalid format option") // runc's text

func (p *program) listCommand() *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "lists containers started by vc-runtime with the given root",
		ArgsUsage: `

Where the given root is specified via the global option "--root"
(default: "` + defaultRoot + `").

EXAMPLE 1:
To list containers created via the default "--root":
       # vc-runtime list

EXAMPLE 2:
To list containers created using a non-default value for "--root":
       # vc-runtime --root value list`,
		Flags: []cli.Flag{
			formatFlag(),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "display only container IDs"},
		},
		Before: arguments(0, 0),
		Action: p.with(list),
	}
}

// formatFlag is the flag of list and ps.
func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "select one of: table or json"}
}

// jsonFormat reports whether formatFlag asks for JSON, and not for a table.
func jsonFormat(c *cli.Context) (bool, error) {
	switch c.String("format") {
	case "json":
		return true, nil
	case "table":
		return false, nil
	}
	return false, errFormat
}

func list(c *cli.Context, rt verbs) error {
	asJSON, err := jsonFormat(c)
	if err != nil {
		return err
	}
	states, err := rt.List(c.Context)
	if err != nil {
		return err
	}
	switch {
	case c.Bool("quiet"):
		for _, s := range states {
			fmt.Fprintln(c.App.Writer, s.ID)
		}
		return nil
	case asJSON:
		if states == nil {
			states = []virtcontainers.State{} // an array, never null
		}
		return json.NewEncoder(c.App.Writer).Encode(states)
	}
	return listTable(c.App.Writer, states)
}

func listTable(w io.Writer, states []virtcontainers.State) error {
	table := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
	fmt.Fprint(table, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, s := range states {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n",
			s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return table.Flush()
}
