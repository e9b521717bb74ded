package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

func TestCheckConfig(t *testing.T) {
	made := "# Linux/x86 6.1 Kernel Configuration\nCONFIG_NET=y\n# CONFIG_VT is not set\nCONFIG_HZ=100\nCONFIG_LSM=\"landlock,bpf\"\n"
	for asked, want := range map[string]string{
		"# a comment\n\nCONFIG_NET=y\nCONFIG_HZ=100\nCONFIG_LSM=\"landlock,bpf\"\n": "",
		"CONFIG_VT=n\n":              "",
		"CONFIG_NOT_IN_THERE=n":      "",
		"CONFIG_NET=n\n":             "CONFIG_NET is y, expected n",
		"CONFIG_VT=y\n":              "CONFIG_VT is n, expected y",
		"CONFIG_RENAMED=y\n":         "CONFIG_RENAMED is n, expected y",
		"CONFIG_NET\n":               `"CONFIG_NET": expected NAME=VALUE`,
		"CONFIG_HZ=250\nCONFIG_VT=y": "CONFIG_VT is n, expected y",
	} {
		err := checkConfig(asked, made)
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", asked, err)
		case want != "" && (!errors.Is(err, errConfig) || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, expected %q", asked, err, want)
		}
	}
}

// With all that the agent loads built in there is nothing to load, and without
// there is no kernel.
func TestBuiltinTree(t *testing.T) {
	var list strings.Builder
	for _, names := range groupModules {
		for _, name := range names {
			list.WriteString("kernel/drivers/" + strings.ReplaceAll(name, "_", "-") + ".ko\n")
		}
	}
	if _, err := selectModules(builtinTree(list.String())); err == nil || !strings.Contains(err.Error(), "virtio_pci") {
		t.Errorf("without the modules of the channel: %v", err)
	}
	for _, name := range bootModules {
		list.WriteString("kernel/drivers/" + name + ".ko\n")
	}
	m, err := selectModules(builtinTree(list.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(allPaths(m)) != 0 || len(m.Groups) != len(groupModules) || m.Groups[guestimage.GroupVsock] == nil {
		t.Errorf("%+v", m)
	}
}

// The configuration asks for nothing twice: the last one would count.
func TestConfigOnce(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "kernel.config"))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkConfig(string(raw), string(raw)); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		name, _, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(name, "#") && seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
	}
}
