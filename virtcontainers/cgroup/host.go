package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNone is a host without any cgroup file system.
var ErrNone = errors.New("no cgroup file system is mounted")

// hierarchy is a tree of cgroups, as one of the host's mounts shows it.
type hierarchy struct {
	// controllers are those of a v1 hierarchy, separated by commas, or
	// "name=systemd" and the like. Empty for v2.
	controllers string
	mount       string // mount point
	root        string // the cgroup that is seen at the mount point
	own         string // the caller's cgroup
	init        string // pid 1's cgroup
}

// host gives the hierarchies of a host.
type host []hierarchy

// readHost looks at this machine.
func readHost() (host, error) {
	var files [3][]byte
	for i, name := range []string{"/proc/self/cgroup", "/proc/1/cgroup", "/proc/self/mountinfo"} {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("look at the host's cgroups: %w", err)
		}
		files[i] = b
	}
	h, err := parseHost(files[0], files[1], files[2])
	if err != nil {
		return nil, fmt.Errorf("look at the host's cgroups: %w", err)
	}
	return h, nil
}

// parseHost makes a host of the caller's and pid 1's cgroup file (cgroups(7))
// and of the mounts (proc(5), mountinfo). Hierarchies that are not mounted are
// left out. Errors: ErrNone, or what is wrong with a line.
func parseHost(own, init, mountinfo []byte) (host, error) {
	mounts, err := parseMounts(mountinfo)
	if err != nil {
		return nil, err
	}
	ofInit, err := parseMembership(init)
	if err != nil {
		return nil, err
	}
	members, err := parseMembership(own)
	if err != nil {
		return nil, err
	}
	var h host
	for _, m := range members {
		i := slices.IndexFunc(mounts, func(mt cgroupMount) bool { return mt.shows(m.controllers) })
		if i < 0 {
			continue
		}
		hy := hierarchy{controllers: m.controllers, mount: mounts[i].point, root: mounts[i].root, own: m.path, init: "/"}
		if j := slices.IndexFunc(ofInit, func(o membership) bool { return o.controllers == m.controllers }); j >= 0 {
			hy.init = ofInit[j].path
		}
		h = append(h, hy)
	}
	if len(h) == 0 {
		return nil, ErrNone
	}
	return h, nil
}

// unified reports whether cgroup v2 is all there is.
func (h host) unified() bool { return len(h) == 1 && h[0].controllers == "" }

// group gives the folder of a placement in one hierarchy.
func (h host) group(hy hierarchy, p Placement) (Group, error) {
	g := Group{Controllers: hy.controllers, Mount: hy.mount}
	switch {
	case p.Unit != "":
		// systemd's root is the cgroup of pid 1, or the one above its
		// init.scope.
		base, err := hy.below(strings.TrimSuffix(hy.init, "/init.scope"))
		if err != nil {
			return g, err
		}
		g.Dir = filepath.Join(hy.mount, base, p.Path)
	case path.IsAbs(p.Path):
		g.Dir = filepath.Join(hy.mount, p.Path)
	default:
		own := hy.own
		if h.unified() && own != hy.root {
			own = own[:strings.LastIndexByte(own, '/')] // not path.Dir, which drops ".."
		}
		base, err := hy.below(own)
		if err != nil {
			return g, err
		}
		g.Dir = filepath.Join(hy.mount, base, p.Path)
	}
	return g, nil
}

// below gives the path of a cgroup as seen from the mount point.
func (hy hierarchy) below(cgroup string) (string, error) {
	if cgroup == "" {
		cgroup = "/"
	}
	if hy.root == "/" && !strings.HasPrefix(cgroup, "/..") {
		return cgroup, nil
	}
	rel, ok := strings.CutPrefix(cgroup, hy.root)
	if !ok || rel != "" && rel[0] != '/' {
		return "", fmt.Errorf("cgroup %s is not below %s, which is mounted on %s", cgroup, hy.root, hy.mount)
	}
	return rel, nil
}

// membership is a line of /proc/PID/cgroup.
type membership struct{ controllers, path string }

func parseMembership(b []byte) ([]membership, error) {
	var ms []membership
	for line := range bytes.Lines(b) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "/") {
			return nil, fmt.Errorf("cgroup membership %q", line)
		}
		ms = append(ms, membership{controllers: f[1], path: f[2]})
	}
	return ms, nil
}

// cgroupMount is a mount of a cgroup file system; options are those of its
// super block, and of v1 only.
type cgroupMount struct {
	point, root string
	v2          bool
	options     []string
}

// shows reports whether the mount is of the hierarchy with these controllers.
func (m cgroupMount) shows(controllers string) bool {
	if controllers == "" {
		return m.v2
	}
	first, _, _ := strings.Cut(controllers, ",")
	return !m.v2 && slices.Contains(m.options, first)
}

func parseMounts(b []byte) ([]cgroupMount, error) {
	var ms []cgroupMount
	for line := range bytes.Lines(b) {
		mount, super, ok := strings.Cut(string(line), " - ")
		f, s := strings.Fields(mount), strings.Fields(super)
		if !ok || len(f) < 6 || len(s) < 3 {
			return nil, fmt.Errorf("mount %q", line)
		}
		if s[0] != "cgroup" && s[0] != "cgroup2" {
			continue
		}
		m := cgroupMount{root: unescape(f[3]), point: unescape(f[4]), v2: s[0] == "cgroup2"}
		if !m.v2 {
			m.options = strings.Split(s[2], ",")
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// unescape undoes how the kernel writes a path into mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
