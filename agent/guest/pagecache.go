package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the containers' files may take of the guest's memory for long, and how
// often that is looked at: there is no event for it. The host has the files in
// its own cache, so that another read of them is cheap.
const (
	cacheShare = 4 // a quarter
	cachePause = 10 * time.Second
)

// BoundPageCache keeps the page cache of the containers within its share of
// the memory, until ctx ends or the kernel turns out not to be able to. What is
// reclaimed is free then, and given back to the host.
func BoundPageCache(ctx context.Context) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("bound the page cache: %w", err)
	}
	bound := int64(info.Totalram) * int64(info.Unit) / cacheShare
	group := filepath.Join(CgroupRoot, ContainersCgroup)
	tick := time.NewTicker(cachePause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := boundPageCache(group, bound); err != nil {
			return fmt.Errorf("bound the page cache: %w", err)
		}
	}
}

// boundPageCache reclaims what the page cache of a cgroup has over bound, in
// bytes. There is no swap: nothing else can be reclaimed.
func boundPageCache(group string, bound int64) error {
	stat, err := os.ReadFile(filepath.Join(group, "memory.stat"))
	if err != nil {
		return err
	}
	over := pageCache(string(stat)) - bound
	if over <= 0 {
		return nil
	}
	err = os.WriteFile(filepath.Join(group, "memory.reclaim"), []byte(strconv.FormatInt(over, 10)), 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil // some of it is in use
	}
	return err
}

// pageCache is how much of a cgroup's memory holds files' contents, in bytes:
// what memory.stat calls file, without shared memory, which is nowhere else.
func pageCache(stat string) int64 {
	var file, shmem int64
	for line := range strings.Lines(stat) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name {
		case "file":
			file, _ = strconv.ParseInt(value, 10, 64)
		case "shmem":
			shmem, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return file - shmem
}
