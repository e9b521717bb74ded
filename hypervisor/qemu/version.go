package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// BinaryVersion is the version of a QEMU.
type BinaryVersion struct {
	Major, Minor, Micro int
	// Full is as QEMU prints it, with the distribution's revision.
	Full string
}

// String is the version without the distribution's revision.
func (v BinaryVersion) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

// Version asks a QEMU binary for its version. The error for a binary that is
// not there says which package has it, and wraps fs.ErrNotExist.
func Version(ctx context.Context, binary string) (BinaryVersion, error) {
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			return BinaryVersion{}, fmt.Errorf("version of %s: %w: %s", binary, err, firstLine(exit.Stderr))
		}
		return BinaryVersion{}, fmt.Errorf("version of QEMU: %w", binaryError(binary, err))
	}
	v, err := parseVersion(out)
	if err != nil {
		return BinaryVersion{}, fmt.Errorf("version of %s: %w", binary, err)
	}
	return v, nil
}

// parseVersion reads "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)".
func parseVersion(out []byte) (BinaryVersion, error) {
	line := firstLine(out)
	m := regexp.MustCompile(`^QEMU emulator version ((\d{1,4})\.(\d{1,4})\.(\d{1,4})\b.*)$`).FindStringSubmatch(line)
	if m == nil {
		return BinaryVersion{}, fmt.Errorf("%.80q is no version of QEMU", line)
	}
	v := BinaryVersion{Full: m[1]}
	for i, to := range []*int{&v.Major, &v.Minor, &v.Micro} {
		*to, _ = strconv.Atoi(m[i+2]) // at most 4 digits
	}
	return v, nil
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	return string(bytes.TrimSpace(line))
}
