package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

func (p *program) psCommand() *cli.Command {
	return &cli.Command{
		Name:      "ps",
		Usage:     "ps displays the processes running inside a container",
		ArgsUsage: `<container-id> [ps options]`,
		Description: `The processes are those of the host that stand for the container's: its shim and
that of each detached exec.`,
		Flags:  []cli.Flag{formatFlag()},
		Before: arguments(1, unlimited),
		Action: p.with(ps),
	}
}

func ps(c *cli.Context, rt verbs) error {
	asJSON, err := jsonFormat(c)
	if err != nil {
		return err
	}
	pids, err := rt.Processes(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if asJSON {
		if pids == nil {
			pids = []int{} // an array, never null
		}
		return json.NewEncoder(c.App.Writer).Encode(pids)
	}
	options := c.Args().Tail()
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(c.Context, psProgram(), options...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			return fmt.Errorf("ps: %w: %s", err, exit.Stderr)
		}
		return fmt.Errorf("ps: %w", err)
	}
	return filterPs(c.App.Writer, string(out), pids)
}

// psProgram is ps(1), also for a caller that gives no PATH.
func psProgram() string {
	if path, err := exec.LookPath("ps"); err == nil {
		return path
	}
	return "/bin/ps"
}

// filterPs writes the header of ps's output and the lines of pids.
func filterPs(w io.Writer, out string, pids []int) error {
	header, body, _ := strings.Cut(out, "\n")
	column := slices.Index(strings.Fields(header), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output") // runc's text
	}
	if _, err := fmt.Fprintln(w, header); err != nil {
		return err
	}
	for line := range strings.Lines(body) {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, pid) {
			if _, err := io.WriteString(w, line); err != nil {
				return err
			}
		}
	}
	return nil
}
