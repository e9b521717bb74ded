package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Room is how much more memory a cgroup's processes may have.
type Room struct {
	Bytes uint64
	Limit string // path of the file with the limit; "" where there is none
}

// FreeMemory gives what the calling process's cgroup, and those above it, leave
// of their memory limits. What the kernel can take back at once, page cache that
// was not used lately, counts as free.
func FreeMemory() (Room, error) {
	h, err := readHost()
	if errors.Is(err, ErrNone) {
		return Room{Bytes: math.MaxUint64}, nil
	}
	if err != nil {
		return Room{}, err
	}
	return h.freeMemory()
}

func (h host) freeMemory() (Room, error) {
	least := Room{Bytes: math.MaxUint64}
	for _, hy := range h {
		if hy.controllers != "" && !slices.Contains(strings.Split(hy.controllers, ","), "memory") {
			continue
		}
		own, err := hy.below(hy.own)
		if err != nil {
			continue // another namespace's: it is not ours to look at
		}
		for dir := filepath.Join(hy.mount, own); ; dir = filepath.Dir(dir) {
			room, err := roomIn(dir, hy.controllers == "")
			if err != nil {
				return Room{}, fmt.Errorf("memory of cgroup %s: %w", dir, err)
			}
			if room.Bytes < least.Bytes {
				least = room
			}
			if len(dir) <= len(hy.mount) {
				break
			}
		}
	}
	return least, nil
}

// roomIn looks at one cgroup. The files are those of
// Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
func roomIn(dir string, v2 bool) (Room, error) {
	limit, usage, cache := "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
	if v2 {
		limit, usage, cache = "memory.max", "memory.current", "inactive_file"
	}
	most, err := number(filepath.Join(dir, limit))
	if errors.Is(err, fs.ErrNotExist) { // the root, or the controller is not on
		return Room{Bytes: math.MaxUint64}, nil
	}
	if err != nil {
		return Room{}, err
	}
	used, err := number(filepath.Join(dir, usage))
	if err != nil {
		return Room{}, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return Room{}, err
	}
	for line := range bytes.Lines(stat) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == cache {
			n, err := strconv.ParseUint(string(f[1]), 10, 64)
			if err != nil {
				return Room{}, fmt.Errorf("memory.stat: %s: %w", cache, err)
			}
			used -= min(n, used)
		}
	}
	return Room{Bytes: most - min(used, most), Limit: filepath.Join(dir, limit)}, nil
}

// number reads a file with a number of bytes, or "max".
func number(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
