package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
)

func (p *program) execCommand() *cli.Command {
	return &cli.Command{
		Name:  "exec",
		Usage: "execute new process inside the container",
		ArgsUsage: `<container-id> <command> [command options]  || -p process.json <container-id>

Where "<container-id>" is the name for the instance of the container and
"<command>" is the command to be executed in the container.
"<command>" can't be empty unless a "-p" flag provided.

EXAMPLE:
For example, if the container is configured to run the linux ps command the
following will output a list of processes running in the container:

       # vc-runtime exec <container-id> ps`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "console-socket", Usage: "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal"},
			&cli.StringFlag{Name: "cwd", Usage: "current working directory in the container"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set environment variables"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "allocate a pseudo-TTY"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "UID (format: <uid>[:<gid>])"},
			&cli.StringSliceFlag{Name: "additional-gids", Aliases: []string{"g"}, Usage: "additional gids"},
			&cli.StringFlag{Name: "process", Aliases: []string{"p"}, Usage: "path to the process.json"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "detach from the container's process"},
			&cli.StringFlag{Name: "pid-file", Usage: "specify the file to write the process id to"},
			&cli.StringFlag{Name: "process-label", Usage: "set the asm process label for the process commonly used with selinux"},
			&cli.StringFlag{Name: "apparmor", Usage: "set the apparmor profile for the process"},
			&cli.BoolFlag{Name: "no-new-privs", Usage: "set the no new privileges value for the process"},
			&cli.StringSliceFlag{Name: "cap", Aliases: []string{"c"}, Usage: "add a capability to the bounding set for the process"},
			&cli.UintFlag{Name: "preserve-fds", Usage: "Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)"},
			&cli.StringSliceFlag{Name: "cgroup", Usage: "only '/', the container's own cgroup"},
			&cli.BoolFlag{Name: "ignore-paused", Usage: "allow exec in a paused container"},
			&cli.BoolFlag{Name: "no-subreaper", Hidden: true},
		},
		Before: arguments(1, unlimited),
		Action: func(c *cli.Context) error {
			code, err := p.exec(c)
			if err != nil {
				return &exitError{code: exitExecFailure, err: fmt.Errorf("exec failed: %w", err)}
			}
			return exitWith(code)
		},
	}
}

// exec gives the process's code, or 0 where it is detached.
func (p *program) exec(c *cli.Context) (int, error) {
	rt, err := p.runtime(c)
	if err != nil {
		return 0, err
	}
	stop, err := p.trace(c)
	if err != nil {
		return 0, err
	}
	defer stop()
	for _, path := range c.StringSlice("cgroup") {
		if path != "/" {
			return 0, errors.New("--cgroup: only '/' is supported, the container's own cgroup")
		}
	}
	if err := checkListenFDs(os.Getenv); err != nil {
		return 0, err
	}
	process, err := p.execProcess(c, rt)
	if err != nil {
		return 0, err
	}
	data, err := json.Marshal(process)
	if err != nil {
		return 0, fmt.Errorf("encode the process: %w", err)
	}
	o := virtcontainers.ExecOptions{
		ID:           c.Args().First(),
		Process:      data,
		Detach:       c.Bool("detach"),
		PreserveFDs:  int(c.Uint("preserve-fds")),
		IgnorePaused: c.Bool("ignore-paused"),
		Stdin:        p.stdin,
		Stdout:       p.stdout,
		Stderr:       p.stderr,
	}
	if o.ConsoleSocket, err = absolute("console-socket", c.String("console-socket")); err != nil {
		return 0, err
	}
	if o.PidFile, err = absolute("pid-file", c.String("pid-file")); err != nil {
		return 0, err
	}
	return rt.Exec(c.Context, o)
}
