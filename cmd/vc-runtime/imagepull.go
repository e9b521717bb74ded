package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/image"
	"github.com/vc-runtime/vc-runtime/image/config"
	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/store"
)

func (p *program) imagePullCommand() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "bring an image into the store, and print its ID",
		ArgsUsage: "<reference>",
		Flags: append(transferFlags(),
			&cli.StringFlag{Name: "creds", Usage: "`USER[:PASSWORD]` for the registry, instead of the file's"},
			&cli.StringFlag{Name: "authfile", Usage: "`FILE` with credentials for registries"},
			&cli.BoolFlag{Name: "tls-verify", Value: true, Usage: "with false any certificate, and HTTP, will do"},
		),
		Before: arguments(1, 1),
		Action: p.withImages(func(c *cli.Context, s *image.Service) error {
			return p.transfer(c, func(ctx context.Context, o image.PullOptions) (*store.Image, *store.Lease, error) {
				return s.Pull(ctx, c.Args().First(), o)
			})
		}),
	}
}

func (p *program) imageImportCommand() *cli.Command {
	return &cli.Command{
		Name:  "import",
		Usage: "make an image of a root file system, or take one from an archive, and print its ID",
		ArgsUsage: `<source> [<name>]

The source is oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME],
whose own names are used where none is given, or a tar with a root file system,
plain or compressed by gzip or zstd ('-' is the standard input), which wants a
name.`,
		Flags: append(transferFlags(),
			&cli.StringSliceFlag{Name: "change", Aliases: []string{"c"}, Usage: "`INSTRUCTION` of a Dockerfile for the configuration of a root file system: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"},
		),
		Before: arguments(1, 2),
		Action: p.withImages(p.importImage),
	}
}

// transferFlags are those of pull and import.
func transferFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "platform", Usage: "take the image for `OS/ARCHITECTURE[/VARIANT]` (default: the configuration's)"},
		&cli.StringFlag{Name: "progress", Value: progressAuto, Usage: "show progress on stderr: one of bar, plain, json, quiet, or auto: a bar on a terminal, else quiet"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
	}
}

func (p *program) importImage(c *cli.Context, s *image.Service) error {
	source, name := c.Args().Get(0), c.Args().Get(1)
	prefix, _, _ := strings.Cut(source, ":")
	switch ref.Transport(prefix) {
	case ref.Layout, ref.Archive, ref.DockerArchive:
		if c.IsSet("change") {
			return errors.New("option --change is for a root file system: an image of an archive is taken as it is")
		}
		return p.transfer(c, func(ctx context.Context, o image.PullOptions) (*store.Image, *store.Lease, error) {
			return s.Import(ctx, source, name, o)
		})
	}
	if name == "" {
		return errors.New("the image of a root file system wants a name: image import FILE NAME")
	}
	var r io.Reader = p.stdin
	if source != "-" {
		f, err := os.Open(source)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	return p.transfer(c, func(ctx context.Context, o image.PullOptions) (*store.Image, *store.Lease, error) {
		return s.ImportRootfs(ctx, r, name, c.StringSlice("change"), o)
	})
}

// transfer brings an image into the store, shows how it goes, and prints the
// image's ID.
func (p *program) transfer(c *cli.Context, do func(context.Context, image.PullOptions) (*store.Image, *store.Lease, error)) error {
	o := image.PullOptions{Platform: c.String("platform")}
	if o.Platform != "" && !config.ValidPlatform(o.Platform) {
		return fmt.Errorf("invalid --platform %q: expected OS/ARCHITECTURE[/VARIANT]", o.Platform)
	}
	o.AuthFile, o.Insecure = c.String("authfile"), c.IsSet("tls-verify") && !c.Bool("tls-verify")
	o.Username, o.Password, _ = strings.Cut(c.String("creds"), ":")
	how := c.String("progress")
	if c.Bool("quiet") {
		how = progressQuiet
	}
	show, err := newProgress(how, p.stderr)
	if err != nil {
		return err
	}
	o.Progress, o.Warn = show.event, show.warn
	img, lease, err := do(c.Context, o)
	show.end()
	p.warn(show.warnings)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, img.ID())
	return lease.Close()
}
