package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

// verifiedName is the file in the cache that remembers which image's digests
// were right.
const verifiedName = "verified"

// verifyOnce compares the image's files with the digests in its manifest, the
// first time that this image is used and whenever its files have changed since:
// reading all of it at every start would cost as much as the start.
func verifyOnce(cache string, image *guestimage.Manifest) error {
	stamp, err := stampOf(image.KernelPath(), image.InitrdPath())
	if err != nil {
		return err
	}
	path := filepath.Join(cache, verifiedName)
	if known, err := os.ReadFile(path); err == nil && string(known) == stamp {
		return nil
	}
	if err := image.Verify(); err != nil {
		return err
	}
	// Not remembering it only costs time.
	tmp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	if os.WriteFile(tmp, []byte(stamp), 0o600) != nil || os.Rename(tmp, path) != nil {
		os.Remove(tmp)
	}
	return nil
}

// stampOf identifies the content of files without reading it.
func stampOf(paths ...string) (string, error) {
	var b strings.Builder
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return "", &os.PathError{Op: "stat", Path: path, Err: err}
		}
		fmt.Fprintf(&b, "%s %d:%d size %d mtime %d.%09d ctime %d.%09d\n",
			path, st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
	}
	return b.String(), nil
}
