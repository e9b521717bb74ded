package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
)

// specConfig is the name of a bundle's specification.
const specConfig = "config.json"

func (p *program) specCommand() *cli.Command {
	return &cli.Command{
		Name:      "spec",
		Usage:     "create a new specification file",
		ArgsUsage: " ",
		Description: `The spec command creates the new specification file named "config.json" for
the bundle.

The spec generated is just a starter file. Editing of the spec is required to
achieve desired results. For example, the newly generated spec includes an args
parameter that is initially set to call the "sh" command when the container is
started. Calling "sh" may work for an ubuntu container or busybox, but will not
work for containers that do not include the "sh" program.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "path to the root of the bundle directory"},
			&cli.BoolFlag{Name: "rootless", Usage: "refused: there are no rootless containers"},
		},
		Before: arguments(0, 0),
		Action: func(c *cli.Context) error {
			if c.Bool("rootless") {
				return errors.New("rootless containers are not supported")
			}
			return writeSpec(c.String("bundle"))
		},
	}
}

// writeSpec writes the default specification into a bundle that has none; ""
// is the current folder.
func writeSpec(bundle string) error {
	data, err := json.MarshalIndent(oci.DefaultSpec(), "", "\t")
	if err != nil {
		return fmt.Errorf("encode the specification: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(bundle, specConfig), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if errors.Is(err, os.ErrExist) {
		//lint:ignore ST1005 runc's text
		return fmt.Errorf("File %s exists. Remove it first", specConfig)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
