package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// Config says what bundle to make.
type Config struct {
	Options
	// Image is the image's configuration, Layers its files with an erofs, the
	// lowest first.
	Image  *v1.Image
	Layers []string
	// User takes the place of the image's.
	User string
	// UpperSize is how much the container can write, in bytes.
	UpperSize int64
	// Files are the texts of hostname, hosts and resolv.conf, by that name.
	Files map[string][]byte
	// Cache is a folder for what is made once.
	Cache string
}

// The files of a bundle.
const (
	configName = "config.json"
	upperName  = "upper.ext4"
	// OutputName is for the output of a container that nobody listens to.
	OutputName = "output.log"
	// LowestName is for a layer below those of the image.
	LowestName = "lowest.erofs"
)

// Make makes a bundle in the empty folder dir. What it gives is for
// virtcontainers.CreateOptions. On an error the folder is the caller's to
// remove.
func Make(ctx context.Context, dir string, c Config) (*monitor.Image, error) {
	spec, err := Spec(c.Image, c.Options)
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("encode config.json: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, rootfsName), 0o755); err != nil {
		return nil, err
	}
	upper := filepath.Join(dir, upperName)
	if err := makeUpper(ctx, c.Cache, upper, c.UpperSize); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, configName), text, filePerm); err != nil {
		return nil, err
	}
	user := c.User
	if user == "" {
		user = c.Image.Config.User
	}
	return &monitor.Image{Layers: c.Layers, Upper: upper, Files: c.Files, User: user}, nil
}

// Remove removes a bundle and its folder, by name: it removes nothing that
// somebody else has put there. What is not there is fine.
func Remove(dir string) error {
	for _, name := range []string{upperName, LowestName, configName, OutputName, rootfsName, ownerName, ""} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
