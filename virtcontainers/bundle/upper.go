package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// The smallest and the largest disk for what a container writes, in bytes.
const (
	MinUpper = 16 << 20
	MaxUpper = 16 << 40
)

// mkfsPlaces are where mkfs.ext4 is: callers need not have it in their PATH.
var mkfsPlaces = []string{"/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"}

// makeUpper makes an image file with an empty ext4 of size bytes at path. It is
// sparse, and a copy of one that is made once for each size, in cache.
func makeUpper(ctx context.Context, cache, path string, size int64) error {
	if size < MinUpper || size > MaxUpper {
		return fmt.Errorf("size of the container's own layer: %d: expected %d to %d bytes", size, MinUpper, int64(MaxUpper))
	}
	model := filepath.Join(cache, fmt.Sprintf("upper-%d.ext4", size))
	if err := copySparse(model, path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	if err := format(ctx, model, size); err != nil {
		return fmt.Errorf("make an empty file system: %w", err)
	}
	return copySparse(model, path)
}

// format makes the model, aside, so that whoever finds it finds all of it.
// Nobody minds two of them at it.
func format(ctx context.Context, model string, size int64) error {
	f, err := os.CreateTemp(filepath.Dir(model), ".upper-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	mkfs := mkfsPlaces[0]
	for _, place := range mkfsPlaces {
		if _, err := os.Stat(place); err == nil {
			mkfs = place
			break
		}
	}
	// No journal: the file system ends with its container. Nothing is written
	// that is zero anyway, or reserved for root.
	out, err := exec.CommandContext(ctx, mkfs, "-q", "-F", "-m", "0",
		"-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-b", strconv.Itoa(4096), f.Name()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", mkfs, err, out)
	}
	return os.Rename(f.Name(), model)
}

// copySparse copies what of a file is not a hole.
func copySparse(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return err
	}
	defer dst.Close()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for offset := int64(0); ; {
		begin, err := unix.Seek(int(src.Fd()), offset, unix.SEEK_DATA)
		if err == unix.ENXIO { // no more of it
			return dst.Close()
		}
		if err != nil {
			return fmt.Errorf("find the data of %s: %w", from, err)
		}
		if offset, err = unix.Seek(int(src.Fd()), begin, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("find the data of %s: %w", from, err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, begin), io.NewSectionReader(src, begin, offset-begin)); err != nil {
			return err
		}
	}
}
