// Package guestimage describes the guest image: the folder with the kernel
// and the initrd that every virtual machine boots, and what the initrd tells
// the agent. The monitor reads the manifest (Load), the agent in the guest
// reads ModulesFile and ImageFile.
//
// The image itself is made by guestimage/build, which neither of the two
// imports.
package guestimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// ManifestFile is the name of the manifest in the folder of an image.
const ManifestFile = "manifest.json"

// ManifestVersion is the version of the manifest's form.
const ManifestVersion = 1

// ErrMismatch is what an image gives whose files or versions are not those
// that its manifest or this program asks for.
var ErrMismatch = errors.New("guest image does not match")

// Manifest says what an image is made of.
type Manifest struct {
	Version  int    `json:"version"`  // ManifestVersion
	ImageID  string `json:"imageId"`  // digest of all that went into the image
	Protocol int    `json:"protocol"` // api.ProtocolVersion of the agent in it

	Kernel Kernel  `json:"kernel"`
	Initrd File    `json:"initrd"`
	Agent  Program `json:"agent"`
	Crun   Program `json:"crun"`

	dir string // where the manifest was loaded from
}

// File is a file in the folder of the image.
type File struct {
	Name   string `json:"file"` // without a folder
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Kernel is the kernel's ELF file and its version, as of a package.
type Kernel struct {
	File
	Version string `json:"version"`
}

// Program is a program inside the initrd.
type Program struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// KernelPath is the path of the kernel.
func (m *Manifest) KernelPath() string { return filepath.Join(m.dir, m.Kernel.Name) }

// InitrdPath is the path of the initrd.
func (m *Manifest) InitrdPath() string { return filepath.Join(m.dir, m.Initrd.Name) }

// Load reads the manifest of the image in dir, and checks that this program
// speaks its agent's protocol and that its files are there in the recorded
// sizes. The digests are left to Verify: reading all of the image would cost
// every container some 100 ms.
//
// Its errors are one line, name the file and say how to make an image. They
// match fs.ErrNotExist for what is missing and ErrMismatch for what is wrong.
func Load(dir string) (*Manifest, error) {
	m, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("guest image %s: %w (make guest)", dir, err)
	}
	return m, nil
}

func load(dir string) (*Manifest, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", ManifestFile, cause(err))
	}
	m := &Manifest{dir: dir}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("%q: %w: %w", ManifestFile, ErrMismatch, err)
	}
	if m.Version != ManifestVersion {
		return nil, fmt.Errorf("%w: manifest version %d, want %d", ErrMismatch, m.Version, ManifestVersion)
	}
	if m.Protocol != api.ProtocolVersion {
		return nil, fmt.Errorf("%w: its agent speaks protocol %d, this runtime %d", ErrMismatch, m.Protocol, api.ProtocolVersion)
	}
	return m, m.each(func(f File) error {
		fi, err := os.Stat(filepath.Join(dir, f.Name))
		switch {
		case err != nil:
			return cause(err)
		case !fi.Mode().IsRegular():
			return fmt.Errorf("%w: not a regular file", ErrMismatch)
		case fi.Size() != f.Size:
			return fmt.Errorf("%w: %d bytes, want %d", ErrMismatch, fi.Size(), f.Size)
		}
		return nil
	})
}

// Verify reads the files of the image and compares their digests with the
// manifest. It gives ErrMismatch for the first that differs.
func (m *Manifest) Verify() error {
	err := m.each(func(f File) error {
		sum, err := digest(filepath.Join(m.dir, f.Name))
		if err != nil {
			return cause(err)
		}
		if sum != f.SHA256 {
			return fmt.Errorf("%w: sha256 %s, want %s", ErrMismatch, sum, f.SHA256)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("guest image %s: %w (make guest)", m.dir, err)
	}
	return nil
}

// each calls check for the kernel and the initrd, and names the one that an
// error is about.
func (m *Manifest) each(check func(File) error) error {
	files := []struct {
		what string
		File
	}{{"kernel", m.Kernel.File}, {"initrd", m.Initrd}}
	for _, f := range files {
		// A name that leads out of the folder would make QEMU read it.
		if f.Name != filepath.Base(f.Name) || !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%s %q: %w: not a plain file name", f.what, f.Name, ErrMismatch)
		}
		if err := check(f.File); err != nil {
			return fmt.Errorf("%s %q: %w", f.what, f.Name, err)
		}
	}
	return nil
}

// digest is the SHA-256 of a file, in hex.
func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// cause takes the operation and the path off an error, which the caller says
// better.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
