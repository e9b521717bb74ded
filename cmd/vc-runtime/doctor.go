package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

// exitOrphans is doctor's code where something was found, and is left.
const exitOrphans = 1

func (p *program) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look for what containers have left behind, and remove it",
		ArgsUsage: `

EXAMPLE:
To list what is left behind, and then to remove it:
       # vc-runtime doctor
       # vc-runtime doctor --fix`,
		Description: `The doctor command lists processes, mounts, interfaces, cgroups, records and
folders of the given root that belong to no container, with the id of the one
that they did belong to. There should never be any, whatever was killed. What
lives, or is being made or removed, is not listed and not touched.

The exit code is 0 where nothing was found, or all of it was removed, else 1.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "fix", Usage: "remove what is found"},
			&cli.BoolFlag{Name: "json", Usage: "print an array of JSON objects"},
		},
		Before: arguments(0, 0),
		Action: p.with(doctor),
	}
}

func doctor(c *cli.Context, rt verbs) error {
	orphans, err := rt.Doctor(c.Context, c.Bool("fix"))
	if err != nil {
		return err
	}
	left := 0
	for _, o := range orphans {
		if !o.Fixed {
			left++
		}
	}
	if c.Bool("json") {
		err = json.NewEncoder(c.App.Writer).Encode(orphans)
	} else if len(orphans) > 0 {
		table := tabwriter.NewWriter(c.App.Writer, 0, 1, 3, ' ', 0)
		fmt.Fprint(table, "KIND\tNAME\tOWNER\tWHY\tFIXED\n")
		for _, o := range orphans {
			fixed := "no"
			if o.Fixed {
				fixed = "yes"
			} else if o.Error != "" {
				fixed = "no: " + oneLine(o.Error)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", o.Kind, o.Name, o.Owner, oneLine(o.Why), fixed)
		}
		err = table.Flush()
	}
	if err == nil && left > 0 {
		return exitWith(exitOrphans)
	}
	return err
}
