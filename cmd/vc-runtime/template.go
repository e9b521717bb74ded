package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor/sandbox"
)

// templates is what the template command needs: sandbox.Templates.
type templates interface {
	Create(ctx context.Context) (key string, made bool, err error)
	List() ([]sandbox.TemplateInfo, error)
	Remove(ctx context.Context, key string) error
	Collect(ctx context.Context) ([]string, error)
}

func (p *program) templateCommand() *cli.Command {
	return &cli.Command{
		Name:  "template",
		Usage: "look after the saved machines that virtual machines are cloned from",
		Description: `Virtual machines begin as clones of a template: a machine that was booted and
saved once for each combination of guest image, QEMU and machine configuration.
Templates are made by the first container that needs one, and removed when they
are of no use any more; these commands are for whoever wants to do either sooner.`,
		Action: noSubcommand,
		Subcommands: []*cli.Command{
			{
				Name:            "create",
				Usage:           "make the template of the configured machine, if it is not there, and print its key",
				HideHelpCommand: true,
				Before:          arguments(0, 0),
				Action:          p.withTemplates(createTemplate),
			},
			{
				Name:            "ls",
				Usage:           "list the templates, the one used last first",
				Flags:           []cli.Flag{formatFlag()},
				HideHelpCommand: true,
				Before:          arguments(0, 0),
				Action:          p.withTemplates(listTemplates),
			},
			{
				Name:            "rm",
				Usage:           "remove templates; machines that were cloned from them go on",
				ArgsUsage:       `<key>... (or the beginnings of keys)`,
				HideHelpCommand: true,
				Before:          arguments(1, unlimited),
				Action:          p.withTemplates(removeTemplates),
			},
			{
				Name:            "gc",
				Usage:           "remove templates that nobody can use any more, or has used for long, and print their keys",
				HideHelpCommand: true,
				Before:          arguments(0, 0),
				Action:          p.withTemplates(collectTemplates),
			},
		},
	}
}

// withTemplates makes an action of what a command does with the templates.
func (p *program) withTemplates(do func(*cli.Context, templates) error) cli.ActionFunc {
	return traced(p, func(c *cli.Context) (templates, error) {
		s, err := p.settings(c)
		if err != nil {
			return nil, err
		}
		return p.templates(s)
	}, do)
}

func createTemplate(c *cli.Context, t templates) error {
	key, _, err := t.Create(c.Context)
	if err == nil {
		fmt.Fprintln(c.App.Writer, key)
	}
	return err
}

func removeTemplates(c *cli.Context, t templates) error {
	for _, key := range c.Args().Slice() {
		if err := t.Remove(c.Context, key); err != nil {
			return err
		}
	}
	return nil
}

func collectTemplates(c *cli.Context, t templates) error {
	keys, err := t.Collect(c.Context)
	for _, key := range keys {
		fmt.Fprintln(c.App.Writer, key)
	}
	return err
}

func listTemplates(c *cli.Context, t templates) error {
	return printList(c, t.List, templateTable)
}

// printList prints what there is, as a table or as JSON (--format).
func printList[T any](c *cli.Context, list func() ([]T, error), table func(io.Writer, []T, time.Time) error) error {
	asJSON, err := jsonFormat(c)
	if err != nil {
		return err
	}
	all, err := list()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(c.App.Writer).Encode(all)
	}
	return table(c.App.Writer, all, time.Now())
}

func templateTable(w io.Writer, all []sandbox.TemplateInfo, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 1, 3, ' ', 0)
	fmt.Fprint(table, "KEY\tAGE\tUSED\tSIZE\tMACHINE\tSTATE\n")
	for _, t := range all {
		status := "unused"
		switch {
		case t.Useless != "":
			status = t.Useless
		case t.InUse:
			status = "in use"
		}
		age := "?"
		if !t.Created.IsZero() {
			age = now.Sub(t.Created).Round(time.Second).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s ago\t%.1f MiB\t%d MiB, %d CPU, %s\t%s\n", t.Key, age,
			now.Sub(t.Used).Round(time.Second), float64(t.Size)/(1<<20), t.Memory>>20, t.CPUs, t.Accel, status)
	}
	return table.Flush()
}
