// Package build makes the guest image (package guestimage) out of Debian's
// generic kernel or one of our own configuration, the agent, and a static crun
// built from Debian's source.
// It runs on a developer's or packager's machine, needs no root, and keeps
// what it has fetched and built in a cache, so that a new agent alone makes a
// new image in a moment.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

// architecture is Debian's name of the one that images are built for. Others
// pack their kernels differently.
const architecture = "amd64"

// Config says what to build an image from, and where.
type Config struct {
	Agent        string // path of the agent's executable
	AgentVersion string // for the manifest
	Cache        string // folder of what is kept between builds
	Out          string // folder of the image
	Refresh      bool   // look for newer packages than the cached ones
	// KernelConfig is the path of a configuration to build Debian's kernel
	// source with; "" takes Debian's generic kernel as it is.
	KernelConfig string
	// KernelPatch is the path of a patch of that source; "" for none.
	KernelPatch string
}

// Build makes the image. The manifest is written last: a build that fails
// leaves no image that guestimage.Load takes for a good one.
func Build(ctx context.Context, log logrus.FieldLogger, cfg Config) (*guestimage.Manifest, error) {
	c := &cache{dir: cfg.Cache, refresh: cfg.Refresh, log: log}
	agent, err := readStatic(cfg.Agent)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	kernel, err := getKernel(ctx, c, cfg.KernelConfig, cfg.KernelPatch)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	crun, err := buildCrun(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("crun: %w", err)
	}
	img, err := assemble(agent, crun, kernel)
	if err != nil {
		return nil, err
	}
	m := &guestimage.Manifest{
		Version:  guestimage.ManifestVersion,
		ImageID:  img.id,
		Protocol: api.ProtocolVersion,
		Kernel:   guestimage.Kernel{File: describe("vmlinux", kernel.vmlinux), Version: kernel.Version},
		Initrd:   describe("initrd", img.initrd),
		Agent:    guestimage.Program{Version: cfg.AgentVersion, SHA256: digest(agent)},
		Crun:     guestimage.Program{Version: crun.version, SHA256: digest(crun.binary)},
	}
	return m, write(cfg.Out, m, kernel.vmlinux, img.initrd)
}

// image is an initrd and the id that it tells the agent.
type image struct {
	id     string
	initrd []byte
}

// assemble lays out the initrd. The id is made of all the rest: the kernel
// and the initrd without it.
func assemble(agent []byte, crun *program, kernel *kernel) (*image, error) {
	entries, err := layout(agent, crun, kernel)
	if err != nil {
		return nil, err
	}
	anonymous, err := cpio(entries)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "guest image %d\nkernel %s\n", api.ProtocolVersion, digest(kernel.vmlinux))
	h.Write(anonymous)
	id := hex.EncodeToString(h.Sum(nil)[:16])

	raw, err := encode(guestimage.Image{ImageID: id, Protocol: api.ProtocolVersion})
	if err != nil {
		return nil, err
	}
	initrd, err := cpio(append(entries, file(guestimage.ImageFile, 0o644, raw)))
	if err != nil {
		return nil, err
	}
	return &image{id: id, initrd: initrd}, nil
}

// layout is what the initrd holds besides the image's id.
func layout(agent []byte, crun *program, kernel *kernel) ([]entry, error) {
	modules, err := encode(eachPath(kernel.Modules, guestModule))
	if err != nil {
		return nil, err
	}
	entries := []entry{
		dir("dev", 0o755),
		dir("mnt", 0o755),
		dir("proc", 0o555),
		dir("root", 0o700),
		dir("run", 0o755),
		dir("sys", 0o555),
		dir("tmp", 0o1777),
		// The kernel opens it as the agent's stdio, before there is a devtmpfs.
		{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1},
		file(guestimage.InitPath, 0o755, agent),
		file(guestimage.CrunPath, 0o755, crun.binary),
		file(guestimage.ModulesFile, 0o644, modules),
	}
	for _, name := range allPaths(kernel.Modules) {
		entries = append(entries, file(guestModule(name), 0o644, kernel.modules[name]))
	}
	return entries, nil
}

// guestModule is where a module of the kernel's tree lies in the guest.
func guestModule(name string) string {
	return guestimage.ModulesDir + "/" + moduleName(name) + ".ko"
}

// write puts the image into its folder. What has not changed is left alone,
// and no file that a virtual machine may have open is written into.
func write(out string, m *guestimage.Manifest, vmlinux, initrd []byte) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	manifest, err := encode(m)
	if err != nil {
		return err
	}
	manifestPath := filepath.Join(out, guestimage.ManifestFile)
	if old, err := os.ReadFile(manifestPath); err == nil && string(old) == string(manifest) {
		if loaded, err := guestimage.Load(out); err == nil && loaded.Verify() == nil {
			now := time.Now()
			return os.Chtimes(manifestPath, now, now) // for make
		}
	}
	if err := removeIfThere(manifestPath); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{m.Kernel.Name, vmlinux}, {m.Initrd.Name, initrd}, {guestimage.ManifestFile, manifest}} {
		if err := replaceFile(filepath.Join(out, f.name), f.data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func describe(name string, data []byte) guestimage.File {
	return guestimage.File{Name: name, Size: int64(len(data)), SHA256: digest(data)}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// encode is v as indented JSON with a newline at the end.
func encode(v any) ([]byte, error) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(raw, '\n'), nil
}
