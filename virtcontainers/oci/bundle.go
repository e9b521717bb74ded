package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// configName is the bundle's specification, in its folder.
const configName = "config.json"

// maxConfig bounds config.json, in bytes. Arguments and environment of a
// process, the largest parts by far, end at 6 MiB (execve(2)).
const maxConfig = 16 << 20

// What Load and GuestProcess find wrong. The texts are runc's: its callers and
// its test suite know them.
var (
	ErrNoConfig   = errors.New("JSON specification file config.json not found")
	ErrNullConfig = errors.New("config cannot be null")
	ErrNoProcess  = errors.New("process property must not be empty")
	//lint:ignore ST1005 runc's text
	ErrNoCwd = errors.New("Cwd property must not be empty")
	//lint:ignore ST1005 runc's text
	ErrRelativeCwd = errors.New("Cwd must be an absolute path")
	ErrNoArgs      = errors.New("args must not be empty")
	ErrNoRoot      = errors.New("root must be specified")
)

// Bundle is a folder with a config.json that has passed Load's checks.
type Bundle struct {
	Dir  string // absolute
	Spec *specs.Spec
	// Text is config.json as it was read, with its unknown properties.
	Text []byte
	// Rootfs is the container's root on the host: an existing folder,
	// absolute and free of symlinks.
	Rootfs string
}

// Load reads and checks the bundle in dir. Unknown properties are ignored, as
// the specification asks.
func Load(dir string) (*Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, renameOp(err, "chdir") // what runc does first
	}
	b := &Bundle{Dir: dir}
	if b.Spec, b.Text, err = loadSpec(filepath.Join(dir, configName)); err != nil {
		return nil, err
	}
	if b.Rootfs, err = findRootfs(dir, b.Spec.Root); err != nil {
		return nil, err
	}
	return b, nil
}

func loadSpec(path string) (*specs.Spec, []byte, error) {
	data, err := readConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, ErrNoConfig
	}
	if err != nil {
		return nil, nil, err
	}
	spec, err := parseSpec(data)
	return spec, data, err
}

func parseSpec(data []byte) (*specs.Spec, error) {
	var spec *specs.Spec
	if err := decode(configName, data, &spec); err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, ErrNullConfig
	}
	if err := checkProcess(spec.Process); err != nil {
		return nil, err
	}
	return spec, nil
}

// readConfig does not wait for anything: a pipe is refused, not opened for
// reading.
func readConfig(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxConfig)
	}
	return data, nil
}

// decode decodes JSON; an error says where in the file it is.
func decode[T any](name string, data []byte, v *T) error {
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	offset := int64(len(data))
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &mismatch):
		offset = mismatch.Offset
	}
	before := data[:min(offset, int64(len(data)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Errorf("%s, line %d, column %d: %w", name, line, column, err)
}

// checkProcess is what runc checks of a process before all else.
func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return ErrNoProcess
	case p.Cwd == "":
		return ErrNoCwd
	case !filepath.IsAbs(p.Cwd):
		return ErrRelativeCwd
	case len(p.Args) == 0:
		return ErrNoArgs
	}
	return nil
}

// findRootfs gives the root's real path.
func findRootfs(dir string, root *specs.Root) (string, error) {
	if root == nil || root.Path == "" {
		return "", ErrNoRoot
	}
	path := root.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("invalid rootfs: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("invalid rootfs: %s is not a folder", path)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("invalid rootfs: %w", err)
	}
	return path, nil
}

// renameOp gives err under the name of another operation.
func renameOp(err error, op string) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: op, Path: pe.Path, Err: pe.Err}
	}
	return err
}
