package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Rootfs makes an image of one layer of a root file system in a tar, plain or
// compressed, as docker import does. It copies the stream into tmp.
func Rootfs(ctx context.Context, r io.Reader, tmp string, config ocispec.ImageConfig, platform string) (*Source, error) {
	s, err := rootfs(ctx, r, tmp, config, platform)
	if err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	return s, nil
}

// rootfsFile is the layer in tmp.
const rootfsFile = "rootfs"

func rootfs(ctx context.Context, r io.Reader, tmp string, config ocispec.ImageConfig, platform string) (*Source, error) {
	file, err := os.OpenFile(filepath.Join(tmp, rootfsFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	sum := digest.SHA256.Digester()
	z, compression, err := decompress(io.TeeReader(interruptible{ctx, r}, io.MultiWriter(file, sum.Hash())))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	diffID, err := digest.SHA256.FromReader(z)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	parts := strings.SplitN(platform, "/", 3)
	image := ocispec.Image{
		Platform: ocispec.Platform{OS: parts[0], Architecture: parts[1]},
		Config:   config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History:  []ocispec.History{{CreatedBy: "vc-runtime image import"}},
	}
	if len(parts) == 3 {
		image.Variant = parts[2]
	}
	text, err := json.Marshal(image)
	if err != nil {
		return nil, err
	}
	dir, err := openFolder(tmp)
	if err != nil {
		return nil, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer + compression, Digest: sum.Digest(), Size: info.Size()}
	s := &Source{files: dir, blobs: map[digest.Digest]blob{d.Digest: {file: rootfsFile}}}
	if err := s.makeManifest(text, []ocispec.Descriptor{d}); err != nil {
		return nil, errors.Join(err, dir.close())
	}
	return s, nil
}

// Change applies one instruction in the form of a Dockerfile to the
// configuration of an image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL,
// USER, VOLUME or WORKDIR. CMD and ENTRYPOINT are a JSON array, or a line for
// the shell.
func Change(c *ocispec.ImageConfig, instruction string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(instruction), " ")
	rest = strings.TrimSpace(rest)
	fail := func(want string) error { return fmt.Errorf("change %q: expected %s", instruction, want) }
	if rest == "" {
		return fail("an instruction with a value")
	}
	switch strings.ToUpper(word) {
	case "CMD":
		c.Cmd = command(rest)
	case "ENTRYPOINT":
		c.Entrypoint = command(rest)
	case "ENV":
		name, value, ok := pair(rest)
		if !ok {
			return fail("ENV NAME=VALUE")
		}
		c.Env = append(c.Env, name+"="+value)
	case "LABEL":
		name, value, ok := pair(rest)
		if !ok {
			return fail("LABEL NAME=VALUE")
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[name] = value
	case "EXPOSE":
		c.ExposedPorts = with(c.ExposedPorts, strings.Fields(rest))
	case "VOLUME":
		var list []string
		if json.Unmarshal([]byte(rest), &list) != nil {
			list = strings.Fields(rest)
		}
		c.Volumes = with(c.Volumes, list)
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "USER":
		c.User = rest
	case "WORKDIR":
		c.WorkingDir = rest
	default:
		return fail("CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR")
	}
	return nil
}

func command(text string) []string {
	var list []string
	if json.Unmarshal([]byte(text), &list) == nil {
		return list
	}
	return []string{"/bin/sh", "-c", text}
}

func pair(text string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(text, "=")
	if v := strings.TrimSuffix(strings.TrimPrefix(value, `"`), `"`); len(v) == len(value)-2 {
		value = v
	}
	return name, value, ok && name != ""
}

func with(set map[string]struct{}, names []string) map[string]struct{} {
	if set == nil {
		set = map[string]struct{}{}
	}
	for _, name := range names {
		set[name] = struct{}{}
	}
	return set
}

// imported is the moment that files of an archive have: the same image gives
// the same archive.
func imported() time.Time { return time.Unix(0, 0).UTC() }
