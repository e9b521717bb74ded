package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
)

func (p *program) createCommand() *cli.Command {
	return &cli.Command{
		Name:  "create",
		Usage: "create a container",
		ArgsUsage: `<container-id>

Where "<container-id>" is your name for the instance of the container that you
are starting. The name you provide for the container instance must be unique on
your host.`,
		Description: `The create command creates an instance of a container for a bundle. The bundle
is a directory with a specification file named "config.json" and a root
filesystem.

The specification file includes an args parameter. The args parameter is used
to specify command(s) that get run when the container is started. To change the
command(s) that get executed on start, edit the args parameter of the spec. See
"vc-runtime spec --help" for more explanation.`,
		Flags:  createFlags(),
		Before: arguments(1, 1),
		Action: p.with(p.create),
	}
}

func (p *program) create(c *cli.Context, rt verbs) error {
	o, err := p.createOptions(c)
	if err == nil {
		err = rt.Create(c.Context, o)
	}
	if err != nil {
		return fmt.Errorf("%s create failed: %w", name, err)
	}
	return nil
}

// createFlags are the flags of create, and of run.
func createFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "path to the root of the bundle directory, defaults to the current directory"},
		&cli.StringFlag{Name: "console-socket", Usage: "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal"},
		&cli.StringFlag{Name: "pid-file", Usage: "specify the file to write the process id to"},
		&cli.BoolFlag{Name: "no-pivot", Usage: "accepted for runc's sake: the guest's rootfs is never on a ramdisk"},
		&cli.BoolFlag{Name: "no-new-keyring", Usage: "accepted for runc's sake: the guest has no keyring to inherit"},
		&cli.UintFlag{Name: "preserve-fds", Usage: "Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)"},
	}
}

// createOptions reads createFlags. Paths are made absolute.
func (p *program) createOptions(c *cli.Context) (virtcontainers.CreateOptions, error) {
	o := virtcontainers.CreateOptions{
		ID:            c.Args().First(),
		PreserveFDs:   int(c.Uint("preserve-fds")),
		SystemdCgroup: c.Bool("systemd-cgroup"),
		Stdin:         p.stdin,
		Stdout:        p.stdout,
		Stderr:        p.stderr,
	}
	err := checkListenFDs(os.Getenv)
	if err != nil {
		return o, err
	}
	if o.Bundle, err = absolute("bundle", c.String("bundle")); err != nil {
		return o, err
	}
	if o.Bundle == "" {
		if o.Bundle, err = os.Getwd(); err != nil {
			return o, fmt.Errorf("bundle in the current directory: %w", err)
		}
	}
	if o.ConsoleSocket, err = absolute("console-socket", c.String("console-socket")); err != nil {
		return o, err
	}
	o.PidFile, err = absolute("pid-file", c.String("pid-file"))
	return o, err
}

// checkListenFDs refuses descriptors that a service manager has for the
// container (sd_listen_fds(3)), which runc would hand on: they cannot cross
// into a virtual machine. Those that are meant for another process are none of
// ours.
func checkListenFDs(getenv func(string) string) error {
	n := getenv("LISTEN_FDS")
	if n == "" || n == "0" || getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	return fmt.Errorf("LISTEN_FDS=%.20s: descriptors cannot be handed into a virtual machine", n)
}
