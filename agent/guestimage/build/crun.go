package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// crunRecipe changes with how crun is built.
const crunRecipe = "1"

// crunConfigure are the options of crun's configure script. What the guest
// has no use for is left out, so that nothing is linked that Debian has no
// static library of; eBPF stays, cgroup2 needs it for the device rules.
var crunConfigure = []string{
	"--disable-maintainer-mode",
	"--disable-dependency-tracking",
	"--disable-shared",
	"--disable-systemd",
	"--disable-criu",
	"--disable-dl",
	"--enable-embedded-yajl",
	"--without-python-bindings",
	// libgcrypt only serves a cache of seccomp filters, on disk.
	"ac_cv_search_gcry_check_version=no",
	"CFLAGS=-Os -ffunction-sections -fdata-sections",
}

// crunFeatures is what "crun --version" must show.
var crunFeatures = []string{"+CAP", "+SECCOMP", "+EBPF", "+YAJL"}

// program is an executable and its version.
type program struct {
	version string
	binary  []byte
}

// buildCrun gives crun as a static program, built from the source package of
// Debian's current version, or of the cached one.
func buildCrun(ctx context.Context, c *cache) (*program, error) {
	dsc, err := c.fetched(ctx, "crun", "*.dsc", func(a *apt, dir string) error {
		_, err := a.source(ctx, "crun", dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	name := strings.TrimSuffix(filepath.Base(dsc), ".dsc") // crun_VERSION
	recipe := fmt.Sprint(crunRecipe, crunConfigure)
	folder, err := c.made("crun", name+"-"+digest([]byte(recipe))[:8], func(tmp string) error {
		return compileCrun(ctx, dsc, tmp)
	})
	if err != nil {
		return nil, err
	}
	binary, err := readStatic(filepath.Join(folder, "crun"))
	if err != nil {
		return nil, err
	}
	return &program{version: strings.TrimPrefix(name, "crun_"), binary: binary}, nil
}

// compileCrun leaves crun, stripped, in folder.
func compileCrun(ctx context.Context, dsc, folder string) error {
	src := filepath.Join(folder, "src")
	jobs := fmt.Sprintf("-j%d", runtime.NumCPU())
	binary := filepath.Join(folder, "crun")
	configure := append([]string{"./configure"}, crunConfigure...)
	// The embedded yajl is not in its own configure's path.
	configure = append(configure, "CPPFLAGS=-I"+src+"/libocispec/yajl/src/headers")
	for _, step := range []command{
		{args: []string{"dpkg-source", "-x", dsc, src}},
		{dir: src, args: configure},
		{dir: src, args: []string{"make", jobs, "-C", "libocispec/yajl", "libyajl.la"}},
		{dir: src, args: []string{"make", jobs, "-C", "libocispec", "libocispec.la"}},
		{dir: src, args: []string{"make", jobs, "LDFLAGS=-all-static -Wl,--gc-sections", "git-version.h", "crun"}},
		{args: []string{"strip", "-o", binary, filepath.Join(src, "crun")}},
	} {
		// A make that runs this one must not hand it its own flags.
		step.env = []string{"MAKEFLAGS=", "MAKELEVEL=", "MFLAGS="}
		if _, err := step.run(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(src); err != nil {
		return err
	}
	version, err := command{args: []string{binary, "--version"}}.run(ctx)
	if err != nil {
		return err
	}
	for _, f := range crunFeatures {
		if !strings.Contains(string(version), f) {
			return fmt.Errorf("built without %s:\n%s", f, version)
		}
	}
	return nil
}
