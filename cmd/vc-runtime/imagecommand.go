package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image"
	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/store"
)

func (p *program) imageCommand() *cli.Command {
	command := &cli.Command{
		Name:  "image",
		Usage: "pull, list, remove and check images",
		Description: `Images are kept in a store of their own, by default in ` + store.DefaultRoot + `
(image.root in the configuration). A reference is a name as docker knows it, with
its defaults, or oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME].`,
		Action: noSubcommand,
		Subcommands: []*cli.Command{
			p.imagePullCommand(), p.imageImportCommand(), p.imageUnpackCommand(),
			{
				Name:  "ls",
				Usage: "list the images",
				Flags: []cli.Flag{
					formatFlag(),
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "display only image IDs"},
				},
				Before: arguments(0, 0),
				Action: p.withImages(listImages),
			},
			{
				Name:      "inspect",
				Usage:     "print what is known of images, as a JSON array",
				ArgsUsage: "<image>...",
				Before:    arguments(1, unlimited),
				Action:    p.withImages(inspectImages),
			},
			{
				Name:      "rm",
				Usage:     "remove images: a name, or all names of an ID",
				ArgsUsage: "<image>...",
				Flags:     []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "also the name of an image that a container uses; its content stays until the container is deleted"}},
				Before:    arguments(1, unlimited),
				Action:    p.withImages(removeImages),
			},
			{
				Name:  "prune",
				Usage: "remove what no image and no container needs; with --all also the images that no container uses",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "remove all images that no container uses"},
					&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "has no effect: nothing is asked"},
				},
				Before: arguments(0, 0),
				Action: p.withImages(pruneImages),
			},
			{
				Name:   "gc",
				Usage:  "remove what neither an image, nor a container, nor a running pull needs, and what killed processes have left",
				Before: arguments(0, 0),
				Action: p.withImages(func(c *cli.Context, s *image.Service) error { return collectImages(c, s) }),
			},
			{
				Name:  "fsck",
				Usage: "check the store",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "content", Usage: "read everything: compare blobs with their digests, and make each layer again to compare it"},
					&cli.BoolFlag{Name: "repair", Usage: "move what is damaged away, and remove images that are not whole any more: they can be pulled again"},
					formatFlag(),
				},
				Before: arguments(0, 0),
				Action: p.withImages(checkImages),
			},
			{
				Name:      "export",
				Usage:     "write an image to an OCI archive ('-' is the standard output)",
				ArgsUsage: "<image> <file>",
				Before:    arguments(2, 2),
				Action:    p.withImages(exportImage),
			},
		},
	}
	for _, sub := range command.Subcommands {
		sub.HideHelpCommand = true
	}
	return command
}

// withImages makes an action of what a command does with the image service. A
// signal ends it in good order; it would be safe without.
func (p *program) withImages(do func(*cli.Context, *image.Service) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		s, err := p.settings(c)
		if err != nil {
			return err
		}
		service, err := image.Open(s.config)
		if err != nil {
			return err
		}
		stop, err := p.trace(c)
		if err != nil {
			return err
		}
		defer stop()
		ctx, cancel := signal.NotifyContext(c.Context, os.Interrupt, unix.SIGTERM)
		defer cancel()
		c.Context = ctx
		return do(c, service)
	}
}

func listImages(c *cli.Context, s *image.Service) error {
	asJSON, err := jsonFormat(c)
	if err != nil {
		return err
	}
	images, err := s.Store.Images()
	if err != nil {
		return err
	}
	switch {
	case c.Bool("quiet"):
		for _, img := range images {
			fmt.Fprintln(c.App.Writer, img.ID())
		}
		return nil
	case asJSON:
		if images == nil {
			images = []*store.Image{} // an array, never null
		}
		return json.NewEncoder(c.App.Writer).Encode(images)
	}
	table := tabwriter.NewWriter(c.App.Writer, 12, 1, 3, ' ', 0)
	fmt.Fprint(table, "IMAGE\tID\tPLATFORM\tLAYERS\tSIZE\tPULLED\n")
	for _, img := range images {
		name := img.Name
		if r, err := ref.Parse(name); err == nil {
			name = r.Familiar()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", name, img.ID().Encoded()[:12], img.Platform, len(img.Layers),
			bytesText(img.Size()), img.Pulled.Format(time.DateTime))
	}
	return table.Flush()
}

// imageReport is an image as inspect prints it.
type imageReport struct {
	ID string `json:"id"`
	*store.Image
	Size         int64           `json:"size"`         // as it was served, in bytes
	UnpackedSize int64           `json:"unpackedSize"` // of the layers' file system images
	Config       json.RawMessage `json:"config"`       // the image's own
	ConfigBlob   any             `json:"configBlob"`
	LayerFiles   []string        `json:"layerFiles"` // lowest first
}

func inspectImages(c *cli.Context, s *image.Service) error {
	reports := []imageReport{}
	for _, text := range c.Args().Slice() {
		img, err := s.Find(text)
		if err != nil {
			return err
		}
		report := imageReport{ID: img.ID().String(), Image: img, Size: img.Size(), ConfigBlob: img.Config}
		config, err := s.ImageConfig(img)
		if err != nil {
			return err
		}
		if report.Config, err = json.Marshal(config); err != nil {
			return err
		}
		for _, l := range img.Stack() {
			info, err := s.Store.LayerInfo(l.ID)
			if err != nil {
				return err
			}
			path, err := s.Store.LayerPath(l.ID)
			if err != nil {
				return err
			}
			report.UnpackedSize += info.Size
			report.LayerFiles = append(report.LayerFiles, path)
		}
		reports = append(reports, report)
	}
	e := json.NewEncoder(c.App.Writer)
	e.SetIndent("", "  ")
	return e.Encode(reports)
}

// removeImages removes what it can, and gives all errors.
func removeImages(c *cli.Context, s *image.Service) error {
	var errs []error
	for _, text := range c.Args().Slice() {
		names, err := s.Remove(c.Context, text, c.Bool("force"))
		for _, name := range names {
			fmt.Fprintln(c.App.Writer, name)
		}
		errs = append(errs, err)
	}
	_, err := s.Store.GC(c.Context, store.GCOptions{})
	return errors.Join(append(errs, err)...)
}

func pruneImages(c *cli.Context, s *image.Service) error {
	if c.Bool("all") {
		names, err := s.Prune(c.Context)
		for _, name := range names {
			fmt.Fprintln(c.App.Writer, name)
		}
		if err != nil {
			return err
		}
	}
	return collectImages(c, s)
}

func collectImages(c *cli.Context, s *image.Service) error {
	if err := sweepBundles(c.Context, s.Store); err != nil {
		return err
	}
	r, err := s.Store.GC(c.Context, store.GCOptions{Known: func(container string) (bool, error) {
		_, err := os.Stat(filepath.Join(bundlesOf(s.Store), container))
		return !errors.Is(err, os.ErrNotExist), nil
	}})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "removed %d blobs, %d layers, %d partial downloads, %d pins, %d leases: %s\n",
		r.Blobs, r.Layers, r.Partials, r.Pins, r.Leases, bytesText(r.Bytes))
	return nil
}

func checkImages(c *cli.Context, s *image.Service) error {
	asJSON, err := jsonFormat(c)
	if err != nil {
		return err
	}
	problems, err := s.Fsck(c.Context, c.Bool("content"), c.Bool("repair"))
	if asJSON {
		if problems == nil {
			problems = []store.Problem{}
		}
		if err := json.NewEncoder(c.App.Writer).Encode(problems); err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			fmt.Fprintln(c.App.Writer, oneLine(p.String()))
		}
	}
	if err != nil {
		return err
	}
	for _, p := range problems {
		if !p.Repaired {
			return fmt.Errorf("the image store has %d problems: see --repair", len(problems))
		}
	}
	return nil
}

// exportImage writes beside the file and renames: nobody sees half an archive, not
// even after a loss of power.
func exportImage(c *cli.Context, s *image.Service) error {
	text, path := c.Args().Get(0), strings.TrimPrefix(c.Args().Get(1), string(ref.Archive)+":")
	if path == "-" {
		return s.Export(c.Context, text, c.App.Writer)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	if err = s.Export(c.Context, text, f); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return complete(f, path, 0o644)
}

// complete gives a file that was written in the folder of path its mode and its
// name there, in which it is on the disk, with all of its content, before the name
// is.
func complete(f *os.File, path string, mode os.FileMode) error {
	err := errors.Join(f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// bytesText is an amount of bytes for people, in decimal units as docker has
// them.
func bytesText(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		if v /= 1000; v < 1000 {
			break
		}
	}
	return fmt.Sprintf("%.3g%s", v, unit)
}
