package testenv

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// Image is a container image made of the suite's base.
type Image struct {
	Name string   // with a tag
	Cmd  []string // what runs by default
}

// WriteImages writes images with the suite's base as their one layer into an
// archive of the form of `docker save`, which ctr and docker can read, and
// gives its path.
func (s *Suite) WriteImages(images ...Image) (string, error) {
	layer := filepath.Join(s.Dir, "layer.tar")
	tool, err := exec.LookPath("tar")
	if err != nil {
		return "", err
	}
	res, err := s.Exec(Command{Path: tool, Args: []string{"-C", s.Base, "-cf", layer, "."}})
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("pack the base: %s", res)
	}
	if err != nil {
		return "", err
	}
	defer os.Remove(layer)
	path := filepath.Join(s.Dir, "images.tar")
	out, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer out.Close()
	if err := writeImages(out, layer, images); err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return path, out.Close()
}

// writeImages follows the Docker Image Specification v1.2, "Combined Image JSON
// + Filesystem Changeset Format".
func writeImages(out io.Writer, layer string, images []Image) error {
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	w := tar.NewWriter(out)
	var manifest []entry
	for i, image := range images {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux", "created": time.Unix(0, 0).UTC(),
			"config": map[string]any{"Cmd": image.Cmd, "Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sum.Sum(nil))}},
		})
		if err != nil {
			return err
		}
		name := fmt.Sprintf("config-%d.json", i)
		if err := addFile(w, name, config); err != nil {
			return err
		}
		manifest = append(manifest, entry{name, []string{image.Name}, []string{"layer.tar"}})
	}
	list, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := addFile(w, "manifest.json", list); err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: size}); err != nil {
		return err
	}
	if _, err := io.Copy(w, f); err != nil {
		return err
	}
	return w.Close()
}

func addFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
