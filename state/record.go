package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// maxRecord bounds a record, in bytes. The largest part of one is the OCI
// process object, whose arguments and environment the kernel bounds at 6 MiB.
const maxRecord = 16 << 20

// tmpSuffix ends the name of a record that is being written.
const tmpSuffix = ".tmp"

// isTemp reports whether name is what a writer of record that was killed may
// have left.
func isTemp(name, record string) bool {
	return strings.HasPrefix(name, record+".") && strings.HasSuffix(name, tmpSuffix)
}

// writeRecord replaces the record called name in dir: readers see the old one
// or the new one, also after a power cut. On an error the old one stays, unless it
// was the way of the new one's name to the disk that failed, and nothing else is
// left.
func writeRecord(dir *os.File, name string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	body = append(body, '\n')
	if len(body) > maxRecord {
		return fmt.Errorf("record of %d bytes is over the limit of %d", len(body), maxRecord)
	}
	tmp := name + "." + strconv.FormatUint(rand.Uint64(), 36) + tmpSuffix
	f, err := openBeneath(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	err = failpoint.Here(failpoint.StateWrite)
	if err == nil {
		_, err = f.Write(body)
	}
	if err == nil {
		err = failpoint.Here(failpoint.StateSync)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = failpoint.Here(failpoint.StateRename)
	}
	if err == nil {
		if err = unix.Renameat(int(dir.Fd()), tmp, int(dir.Fd()), name); err != nil {
			err = &os.PathError{Op: "rename", Path: f.Name(), Err: err}
		}
	}
	if err != nil {
		return errors.Join(err, unlink(dir, tmp, 0))
	}
	if err := failpoint.Here(failpoint.StateSyncFolder); err != nil {
		return err
	}
	return dir.Sync()
}

// readRecord reads the record called name in dir into v, which must be of the
// given version. The error is fs.ErrNotExist, ErrCorrupt, ErrFutureVersion or
// that of a system call.
func readRecord(dir *os.File, name string, version int, v any) error {
	// O_NONBLOCK: a FIFO under that name must not make anybody wait.
	f, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ELOOP) {
		return corrupt(filepath.Join(dir.Name(), name), errors.New("a symlink"))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return err
	} else if !st.Mode().IsRegular() {
		return corrupt(f.Name(), fmt.Errorf("not a regular file but %s", st.Mode().Type()))
	}
	body, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return err
	}
	err = decodeRecord(body, version, v)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrFutureVersion):
		return fmt.Errorf("%s: %w", f.Name(), err)
	default:
		return corrupt(f.Name(), err)
	}
}

func corrupt(path string, cause error) error {
	return fmt.Errorf("%s: %w: %w", path, ErrCorrupt, cause)
}

// decodeRecord is strict: an unknown field would be lost when the record is
// written again. Whoever adds one raises the version.
func decodeRecord(body []byte, version int, v any) error {
	if len(body) == 0 {
		return errors.New("empty")
	}
	if len(body) > maxRecord {
		return fmt.Errorf("over %d bytes", maxRecord)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return err
	}
	switch {
	case head.Version > version:
		return fmt.Errorf("%w: version %d, at most %d is known", ErrFutureVersion, head.Version, version)
	case head.Version < 1:
		return fmt.Errorf("version %d", head.Version)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// openBeneath opens, or makes with mode 0600, a file of a folder, never
// through a symlink.
func openBeneath(dir *os.File, name string, flags int) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
