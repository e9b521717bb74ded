package build

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

// Debian's generic kernel has every driver as a module.
const (
	kernelMetapackage = "linux-image-" + architecture
	kernelPrefix      = "linux-image-"
)

// kernelRecipe changes with how a kernel package is taken apart.
const kernelRecipe = "1"

// kernelFile describes, in its folder of the cache, a kernel.
const kernelFile = "kernel.json"

// kernel is what the image takes of a kernel package.
type kernel struct {
	Version string             `json:"version"` // of the package
	Modules guestimage.Modules `json:"modules"` // files relative to the modules' tree

	vmlinux []byte
	modules map[string][]byte // file → decompressed module
}

// getKernel gives Debian's kernel, or one that is built with a configuration
// and a patch.
func getKernel(ctx context.Context, c *cache, config, patch string) (*kernel, error) {
	if config == "" {
		return fetchKernel(ctx, c)
	}
	source, err := readLinuxSource(config, patch)
	if err != nil {
		return nil, err
	}
	return buildLinux(ctx, c, source)
}

// fetchKernel gives the kernel of Debian's current package, or of the cached
// one.
func fetchKernel(ctx context.Context, c *cache) (*kernel, error) {
	deb, err := c.fetched(ctx, "kernel", "*.deb", func(a *apt, dir string) error {
		pkg, err := a.dependency(ctx, kernelMetapackage, kernelPrefix)
		if err != nil {
			return err
		}
		_, err = a.download(ctx, pkg, dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	folder, err := c.made("kernel", kernelKey(deb), func(tmp string) error {
		return unpackKernel(ctx, deb, tmp)
	})
	if err != nil {
		return nil, err
	}
	return readKernel(folder)
}

// kernelKey stands for a package and for what is taken of it.
func kernelKey(deb string) string {
	name := strings.TrimSuffix(filepath.Base(deb), ".deb")
	recipe := fmt.Sprint(kernelRecipe, bootModules, groupModules) // maps print sorted
	return name + "-" + digest([]byte(recipe))[:8]
}

// unpackKernel puts vmlinux, the modules of the image and their list into
// folder.
func unpackKernel(ctx context.Context, deb, folder string) error {
	tree := filepath.Join(folder, "tree")
	if _, err := (command{args: []string{"dpkg-deb", "-x", deb, tree}}).run(ctx); err != nil {
		return err
	}
	version, err := command{args: []string{"dpkg-deb", "-f", deb, "Version"}}.run(ctx)
	if err != nil {
		return err
	}
	bzImage, err := only(filepath.Join(tree, "boot"), "vmlinuz-*")
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	elf, err := vmlinux(ctx, raw)
	if err != nil {
		return err
	}
	release := strings.TrimPrefix(filepath.Base(bzImage), "vmlinuz-")
	// The package leaves it to its installation to tell the dependencies.
	if _, err := (command{args: []string{"depmod", "-b", tree, release}}).run(ctx); err != nil {
		return err
	}
	k := &kernel{Version: strings.TrimSpace(string(version)), vmlinux: elf}
	if err := k.takeModules(ctx, filepath.Join(tree, "lib/modules", release)); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	return k.save(folder)
}

// takeModules reads the modules of the image from a kernel's tree.
func (k *kernel) takeModules(ctx context.Context, root string) error {
	tree, err := readModuleTree(root)
	if err != nil {
		return err
	}
	if k.Modules, err = selectModules(tree); err != nil {
		return err
	}
	k.modules = map[string][]byte{}
	for _, file := range allPaths(k.Modules) {
		if k.modules[file], err = readModule(ctx, filepath.Join(root, file)); err != nil {
			return err
		}
	}
	return nil
}

// readModule reads a module, and decompresses it where the package has it
// compressed.
func readModule(ctx context.Context, path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(path) {
	case ".ko":
		return raw, nil
	case ".xz":
		return command{args: []string{"xz", "-dc"}, stdin: raw}.run(ctx)
	}
	return nil, fmt.Errorf("%s: unknown compression", path)
}

// save writes a kernel into a folder of the cache, for readKernel.
func (k *kernel) save(folder string) error {
	for file, data := range k.modules {
		path := filepath.Join(folder, "modules", file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "vmlinux"), k.vmlinux, 0o644); err != nil {
		return err
	}
	raw, err := encode(k)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, kernelFile), raw, 0o644)
}

func readKernel(folder string) (*kernel, error) {
	raw, err := os.ReadFile(filepath.Join(folder, kernelFile))
	if err != nil {
		return nil, err
	}
	k := &kernel{modules: map[string][]byte{}}
	if err := json.Unmarshal(raw, k); err != nil {
		return nil, fmt.Errorf("%s: %w", kernelFile, err)
	}
	for _, file := range allPaths(k.Modules) {
		if k.modules[file], err = os.ReadFile(filepath.Join(folder, "modules", file)); err != nil {
			return nil, err
		}
	}
	k.vmlinux, err = os.ReadFile(filepath.Join(folder, "vmlinux"))
	return k, err
}
