package build

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

// bootModules is what the agent needs before the host can hear it.
var bootModules = []string{"virtio_pci", "virtio_console"}

// groupModules is what each group is for; the rest of it are dependencies.
var groupModules = map[guestimage.ModuleGroup][]string{
	guestimage.GroupVirtiofs:     {"virtiofs"},
	guestimage.GroupOverlay:      {"overlay"},
	guestimage.GroupErofs:        {"erofs"},
	guestimage.GroupExt4:         {"ext4"},
	guestimage.GroupBlock:        {"virtio_blk"},
	guestimage.GroupNet:          {"virtio_net"},
	guestimage.GroupVsock:        {"vmw_vsock_virtio_transport"},
	guestimage.GroupVsockSockets: {"vmw_vsock_virtio_transport_common"},
	guestimage.GroupRNG:          {"virtio_rng"},
	guestimage.GroupBalloon:      {"virtio_balloon"},
}

// moduleTree is what depmod(8) knows of a kernel's modules. Names have "_"
// for "-", as the kernel shows them.
type moduleTree struct {
	files   map[string]string   // name → file, relative to the tree
	deps    map[string][]string // name → names that must be loaded first
	soft    map[string][]string // name → names or aliases better loaded first
	aliases map[string][]string // alias → names
	builtin map[string]bool
}

// readModuleTree reads lib/modules/RELEASE, after depmod.
func readModuleTree(root string) (*moduleTree, error) {
	t := &moduleTree{
		files:   map[string]string{},
		deps:    map[string][]string{},
		soft:    map[string][]string{},
		aliases: map[string][]string{},
		builtin: map[string]bool{},
	}
	for _, part := range []struct {
		file string
		line func(fields []string) error
	}{
		{"modules.dep", t.addDep},
		{"modules.softdep", t.addSoftdep},
		{"modules.alias", t.addAlias},
		{"modules.builtin", t.addBuiltin},
	} {
		raw, err := os.ReadFile(filepath.Join(root, part.file))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			fields := strings.Fields(line)
			if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
				continue
			}
			if err := part.line(fields); err != nil {
				return nil, fmt.Errorf("%s: %q: %w", part.file, strings.TrimSpace(line), err)
			}
		}
	}
	return t, nil
}

// addDep takes "FILE: FILE...", in which the last is to be loaded first.
func (t *moduleTree) addDep(fields []string) error {
	file, ok := strings.CutSuffix(fields[0], ":")
	if !ok {
		return fmt.Errorf("no colon after the file")
	}
	name := moduleName(file)
	t.files[name] = file
	for _, dep := range slices.Backward(fields[1:]) {
		t.deps[name] = append(t.deps[name], moduleName(dep))
	}
	return nil
}

// addSoftdep takes "softdep NAME pre: X... post: Y...". What is to come after
// a module loads by itself when it is needed, so it is left out.
func (t *moduleTree) addSoftdep(fields []string) error {
	if len(fields) < 2 || fields[0] != "softdep" {
		return fmt.Errorf("not a soft dependency")
	}
	name, pre := normal(fields[1]), false
	for _, word := range fields[2:] {
		switch {
		case word == "pre:":
			pre = true
		case word == "post:":
			pre = false
		case pre:
			t.soft[name] = append(t.soft[name], word)
		}
	}
	return nil
}

// addAlias takes "alias ALIAS NAME".
func (t *moduleTree) addAlias(fields []string) error {
	if len(fields) != 3 || fields[0] != "alias" {
		return fmt.Errorf("not an alias")
	}
	alias := normal(fields[1])
	t.aliases[alias] = append(t.aliases[alias], normal(fields[2]))
	return nil
}

func (t *moduleTree) addBuiltin(fields []string) error {
	t.builtin[moduleName(fields[0])] = true
	return nil
}

// order gives the files of the named modules and of all that they depend on,
// in load order, leaving out what is built in or in the list already.
func (t *moduleTree) order(names []string, already []string) ([]string, error) {
	o := ordering{tree: t, seen: map[string]bool{}}
	for _, file := range already {
		o.seen[moduleName(file)] = true
	}
	for _, name := range names {
		if err := o.load(name); err != nil {
			return nil, err
		}
	}
	return o.files, nil
}

type ordering struct {
	tree  *moduleTree
	seen  map[string]bool
	files []string
}

func (o *ordering) load(name string) error {
	if o.seen[name] || o.tree.builtin[name] {
		return nil
	}
	o.seen[name] = true // before its dependencies: soft ones may form a ring
	file, ok := o.tree.files[name]
	if !ok {
		return fmt.Errorf("kernel has no module %q", name)
	}
	for _, dep := range o.tree.deps[name] {
		if err := o.load(dep); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, want := range o.tree.soft[name] {
		if dep, ok := o.tree.provider(want); ok {
			if err := o.load(dep); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	o.files = append(o.files, file)
	return nil
}

// provider finds the module that a soft dependency means. Of several that
// implement the same thing it takes the generic one, which works on each CPU.
func (t *moduleTree) provider(want string) (string, bool) {
	name := normal(want)
	if _, ok := t.files[name]; ok {
		return name, true
	}
	found := t.aliases[name]
	for _, f := range found {
		if strings.HasSuffix(f, "_generic") {
			return f, true
		}
	}
	if len(found) > 0 {
		return found[0], true
	}
	return "", false
}

// selectModules orders the boot modules and each group. The paths are those
// of the tree's files.
func selectModules(t *moduleTree) (guestimage.Modules, error) {
	boot, err := t.order(bootModules, nil)
	if err != nil {
		return guestimage.Modules{}, err
	}
	m := guestimage.Modules{Boot: boot, Groups: map[guestimage.ModuleGroup][]string{}}
	for group, names := range groupModules {
		files, err := t.order(names, boot)
		if err != nil {
			return guestimage.Modules{}, fmt.Errorf("module group %s: %w", group, err)
		}
		m.Groups[group] = append([]string{}, files...) // not null in JSON
	}
	return m, nil
}

// eachPath gives m with every path replaced.
func eachPath(m guestimage.Modules, replace func(string) string) guestimage.Modules {
	paths := func(in []string) []string {
		out := make([]string, 0, len(in))
		for _, p := range in {
			out = append(out, replace(p))
		}
		return out
	}
	groups := make(map[guestimage.ModuleGroup][]string, len(m.Groups))
	for g, list := range m.Groups {
		groups[g] = paths(list)
	}
	return guestimage.Modules{Boot: paths(m.Boot), Groups: groups}
}

// allPaths gives each path of m once, sorted.
func allPaths(m guestimage.Modules) []string {
	all := slices.Clone(m.Boot)
	for _, list := range m.Groups {
		all = append(all, list...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// moduleName is the kernel's name of the module in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return normal(name)
}

func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }
