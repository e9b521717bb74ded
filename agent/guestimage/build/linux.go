package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// The other kernel is built from Debian's source of the same version.
const (
	linuxMetapackage = "linux-source"
	linuxPrefix      = "linux-source-"
)

// linuxRecipe changes with how the source is built.
const linuxRecipe = "1"

// linuxVariables make the same source give the same file, whoever builds it,
// where and when (kernel: Documentation/kbuild/reproducible-builds.rst).
var linuxVariables = []string{
	"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
	"KBUILD_BUILD_VERSION=1",
	"KBUILD_BUILD_USER=vc-runtime",
	"KBUILD_BUILD_HOST=vc-runtime",
	// A make that runs this one must not hand it its own flags.
	"MAKEFLAGS=", "MAKELEVEL=", "MFLAGS=",
}

// errConfig is a line of the configuration that the kernel does not take.
var errConfig = errors.New("kernel configuration")

// linuxSource is what a kernel is built with, besides Debian's source.
type linuxSource struct {
	config []byte // complete but for what follows from it ("make allnoconfig")
	patch  []byte // of the source, as diff -u makes it; may be empty
}

func readLinuxSource(config, patch string) (s linuxSource, err error) {
	if s.config, err = os.ReadFile(config); err != nil {
		return s, err
	}
	if patch != "" {
		s.patch, err = os.ReadFile(patch)
	}
	return s, err
}

// buildLinux gives a kernel that is built from the source in Debian's current
// package, or in the cached one. What the agent would load must be built in.
func buildLinux(ctx context.Context, c *cache, s linuxSource) (*kernel, error) {
	deb, err := c.fetched(ctx, "linux", "*.deb", func(a *apt, dir string) error {
		pkg, err := a.dependency(ctx, linuxMetapackage, linuxPrefix)
		if err != nil {
			return err
		}
		_, err = a.download(ctx, pkg, dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	name := strings.TrimSuffix(filepath.Base(deb), ".deb")
	recipe := fmt.Sprint(linuxRecipe, linuxVariables, string(s.config), string(s.patch))
	folder, err := c.made("linux", name+"-"+digest([]byte(recipe))[:8], func(tmp string) error {
		return compileLinux(ctx, deb, s, tmp)
	})
	if err != nil {
		return nil, err
	}
	return readKernel(folder)
}

// compileLinux leaves a kernel in folder.
func compileLinux(ctx context.Context, deb string, s linuxSource, folder string) error {
	version, err := command{args: []string{"dpkg-deb", "-f", deb, "Version"}}.run(ctx)
	if err != nil {
		return err
	}
	tree, src := filepath.Join(folder, "tree"), filepath.Join(folder, "src")
	if _, err := (command{args: []string{"dpkg-deb", "-x", deb, tree}}).run(ctx); err != nil {
		return err
	}
	tarball, err := only(filepath.Join(tree, "usr/src"), linuxPrefix+"*.tar.xz")
	if err != nil {
		return err
	}
	if err := os.Mkdir(src, 0o755); err != nil {
		return err
	}
	fragment := filepath.Join(folder, "fragment")
	if err := os.WriteFile(fragment, s.config, 0o644); err != nil {
		return err
	}
	for _, step := range []command{
		{args: []string{"tar", "-xJf", tarball, "--strip-components=1", "-C", src}},
		// Where it does not fit the source has changed, and wants to be looked at.
		{dir: src, args: []string{"patch", "-s", "-p1", "--fuzz=0"}, stdin: s.patch},
		{dir: src, args: []string{"make", "-s", "allnoconfig"}, env: []string{"KCONFIG_ALLCONFIG=" + fragment}},
	} {
		step.env = append(step.env, linuxVariables...)
		if _, err := step.run(ctx); err != nil {
			return err
		}
	}
	made, err := os.ReadFile(filepath.Join(src, ".config"))
	if err != nil {
		return err
	}
	if err := checkConfig(string(s.config), string(made)); err != nil {
		return err
	}
	k := &kernel{Version: strings.TrimSpace(string(version)) + "+trimmed"}
	if err := k.compile(ctx, src); err != nil {
		return err
	}
	for _, path := range []string{tree, src, fragment} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return k.save(folder)
}

// compile builds the kernel of a configured source.
func (k *kernel) compile(ctx context.Context, src string) error {
	elf := filepath.Join(src, "vmlinux.stripped")
	for _, step := range []command{
		{args: []string{"make", "-s", fmt.Sprintf("-j%d", runtime.NumCPU()), "vmlinux"}},
		// Without the debugging information, of which the kernel has what it
		// needs itself in the form of BTF.
		{args: []string{"objcopy", "-S", "vmlinux", elf}},
	} {
		step.dir, step.env = src, linuxVariables
		if _, err := step.run(ctx); err != nil {
			return err
		}
	}
	if err := checkHook(filepath.Join(src, "vmlinux")); err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(src, "modules.builtin"))
	if err != nil {
		return err
	}
	if k.Modules, err = selectModules(builtinTree(string(builtin))); err != nil {
		return fmt.Errorf("not built in: %w", err)
	}
	k.vmlinux, err = os.ReadFile(elf)
	return err
}

// builtinTree is the tree of a kernel without modules. list has the files that
// they would be, one a line.
func builtinTree(list string) *moduleTree {
	t := &moduleTree{builtin: map[string]bool{}}
	for line := range strings.Lines(list) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return t
}

// checkConfig compares the configuration that was asked for with the one that
// the kernel has made of it: what depends on something else than was thought,
// or has another name in a newer kernel, would silently not be there.
func checkConfig(asked, made string) error {
	have := map[string]string{}
	for line := range strings.Lines(made) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			have[name] = value
		}
	}
	var errs []error
	for line := range strings.Lines(asked) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, want, ok := strings.Cut(line, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %q: expected NAME=VALUE", errConfig, line))
			continue
		}
		got, ok := have[name]
		if !ok {
			got = "n" // "# NAME is not set", or nothing where it depends on something that is not there
		}
		if got != want {
			errs = append(errs, fmt.Errorf("%w: %s is %s, expected %s", errConfig, name, got, want))
		}
	}
	return errors.Join(errs...)
}
