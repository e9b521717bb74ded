package main

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers/stats"
)

func (p *program) eventsCommand() *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
		ArgsUsage: `<container-id>

Where "<container-id>" is the name for the instance of the container.`,
		Description: `The events command displays information about the container. By default the
information is displayed once every 5 seconds.`,
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "interval", Value: 5 * time.Second, Usage: "set the stats collection interval"},
			&cli.BoolFlag{Name: "stats", Usage: "display the container's stats then exit"},
		},
		Before: arguments(1, 1),
		Action: p.with(events),
	}
}

func events(c *cli.Context, rt verbs) error {
	interval := c.Duration("interval")
	if interval <= 0 {
		return errors.New("duration interval must be greater than 0") // runc's text
	}
	id := c.Args().First()
	print := func(e stats.Event) error { return json.NewEncoder(c.App.Writer).Encode(e) }
	if !c.Bool("stats") {
		return rt.Events(c.Context, id, interval, print)
	}
	s, err := rt.Stats(c.Context, id)
	if err != nil {
		return err
	}
	return print(stats.Event{Type: "stats", ID: id, Data: s})
}
