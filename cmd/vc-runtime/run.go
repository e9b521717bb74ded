package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "create and run a container, from a bundle or from an image",
		ArgsUsage: `<container-id>
   vc-runtime run [command options] IMAGE [COMMAND...]

Where "<container-id>" is your name for the instance of the container that you
are starting. The name you provide for the container instance must be unique on
your host.`,
		Description: `The run command creates an instance of a container for a bundle. The bundle
is a directory with a specification file named "config.json" and a root
filesystem.

The specification file includes an args parameter. The args parameter is used
to specify command(s) that get run when the container is started. To change the
command(s) that get executed on start, edit the args parameter of the spec. See
"vc-runtime spec --help" for more explanation.

Without --bundle, and without a config.json in the current directory, the argument
is an image: NAME[:TAG][@DIGEST] of a registry, oci:DIR[:TAG], oci-archive:FILE or
docker-archive:FILE. It is fetched if need be (see "vc-runtime image --help"), and
the container is made of its configuration and of those flags that docker and podman
have too. Flags of vc-runtime go before the image, what comes after it is the
container's. A detached container's output goes to the file output.log in its bundle,
which "vc-runtime state" names. The exit code is the container's; 125 where it was not
run, 126 for a command that cannot be run, 127 for one that is not there.`,
		Flags: append(append(createFlags(),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "detach from the container's process"},
			&cli.BoolFlag{Name: "keep", Usage: "do not delete the container after it exits"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "disable the use of the subreaper used to reap reparented processes"},
		), imageFlags()...),
		Before: arguments(1, unlimited),
		// -it is -i -t.
		UseShortOptionHandling: true,
		Action:                 p.with(p.runContainer),
	}
}

// runContainer exits with the container's code, unless it is detached.
func (p *program) runContainer(c *cli.Context, rt verbs) error {
	if fromImage(c) {
		return p.runImage(c, rt)
	}
	if err := arguments(1, 1)(c); err != nil {
		return err
	}
	for _, f := range imageFlags() {
		if c.IsSet(f.Names()[0]) {
			return fmt.Errorf("%s run failed: --%s is for images, this is a bundle: its config.json says it", name, f.Names()[0])
		}
	}
	create, err := p.createOptions(c)
	code := 0
	if err == nil {
		code, err = rt.Run(c.Context, virtcontainers.RunOptions{
			CreateOptions: create,
			Detach:        c.Bool("detach"),
			Keep:          c.Bool("keep"),
			NoSubreaper:   c.Bool("no-subreaper"),
		})
	}
	if err != nil {
		return fmt.Errorf("%s run failed: %w", name, err)
	}
	return exitWith(code)
}

// fromImage tells whether the arguments of run are an image and a command, not
// the id of a container whose bundle is named, or lies here.
func fromImage(c *cli.Context) bool {
	return !c.IsSet("bundle") && (c.NArg() > 1 || !bundleHere())
}
