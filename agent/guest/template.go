package guest

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// IsTemplate reports whether the host is going to save this machine once it
// has said hello (api.TemplateArg).
func IsTemplate() bool { return told(api.TemplateArg) }

// told reports whether the host has put arg on the kernel's command line.
func told(arg string) bool {
	b, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(b)), arg)
}

// What ClearFreeMemory leaves alone, for the kernel, and takes at most: a host
// with large guests should not have to write all their memory once.
const (
	reserve = 12 << 20  // bytes
	most    = 256 << 20 // bytes
)

// ClearFreeMemory fills the machine's free memory with zeros, which clones
// need not copy: the kernel clears what it hands out. Small pages make it
// begin with what has been used before.
func ClearFreeMemory() error {
	debug.FreeOSMemory()
	err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
	if err == nil {
		err = takeFreeMemory()
	}
	if err != nil {
		return fmt.Errorf("clear free memory: %w", err)
	}
	return nil
}

// takeFreeMemory takes memory and gives it back.
func takeFreeMemory() error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	size := min(int64(info.Freeram)*int64(info.Unit)-reserve, most)
	if size <= 0 {
		return nil
	}
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	// EINVAL: a kernel without huge pages.
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		return errors.Join(err, unix.Munmap(b))
	}
	for at := 0; at < len(b); at += os.Getpagesize() {
		b[at] = 0 // the write takes the page
	}
	return unix.Munmap(b)
}
