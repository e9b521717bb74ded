package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"github.com/vc-runtime/vc-runtime/image/store"
)

const example = "../../packaging/config.toml"

func TestExampleIsDefault(t *testing.T) {
	c, err := Load(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Errorf("packaging/config.toml is not the default (-default +file):\n%s", diff)
	}
	var file map[string]map[string]any
	if _, err := toml.DecodeFile(example, &file); err != nil {
		t.Fatal(err)
	}
	for name := range Default().keys() {
		if _, ok := file[table][name]; !ok {
			t.Errorf("packaging/config.toml has no %s.%s", table, name)
		}
	}
}

// Every field can be set, and other tables are left alone.
func TestParse(t *testing.T) {
	c, err := Parse(`
[runtime]
what = "ever"
[image]
root = "/r"
certs_dirs = ["/c"]
auth_file = "/a"
max_concurrent_downloads = 7
max_layers = 8
progress_timeout = "0s"
platform = "linux/arm/v7"
sync = "off"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Root: "/r", CertsDirs: []string{"/c"}, AuthFile: "/a", MaxConcurrentDownloads: 7, MaxLayers: 8,
		Platform: "linux/arm/v7", Sync: store.SyncOff,
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	if def := Default(); def.ProgressTimeout != 5*time.Minute || len(def.CertsDirs) != 3 {
		t.Error("the defaults were changed")
	}
}

func TestErrorsNameKeyValueAndExpectation(t *testing.T) {
	for line, want := range map[string]string{
		`root = "x"`:                     `image.root = "x": expected an absolute path`,
		`root = "/"`:                     `image.root = "/": expected an absolute path`,
		`root = ""`:                      `image.root = "": expected an absolute path`,
		`root = 1`:                       `image.root = 1: expected an absolute path`,
		`certs_dirs = "/c"`:              `image.certs_dirs = "/c": expected an array of absolute paths`,
		`certs_dirs = ["c"]`:             `image.certs_dirs = [c]: expected an array of absolute paths`,
		`auth_file = "a"`:                `image.auth_file = "a": expected an absolute path, or "" for the usual places`,
		`max_concurrent_downloads = 0`:   `image.max_concurrent_downloads = 0: expected a number from 1 to 64`,
		`max_concurrent_downloads = "3"`: `image.max_concurrent_downloads = "3": expected a number from 1 to 64`,
		`progress_timeout = "-1s"`:       `image.progress_timeout = "-1s": expected a time such as "5m", or "0s" for no limit`,
		`progress_timeout = 5`:           `image.progress_timeout = 5: expected a time such as "5m", or "0s" for no limit`,
		`platform = "amd64"`:             `image.platform = "amd64": expected a platform such as "linux/amd64", or "" for the host's`,
		`platform = "linux//x"`:          `image.platform = "linux//x": expected a platform such as "linux/amd64", or "" for the host's`,
		`sync = "none"`:                  `image.sync = "none": expected "full" or "off"`,
		`max_downloads = 3`: `unknown key image.max_downloads: expected auth_file, certs_dirs, max_concurrent_downloads, ` +
			`max_layers, platform, progress_timeout, root, sync`,
	} {
		_, err := Parse("[image]\n" + line)
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
		}
	}
	for text, want := range map[string]string{
		"image = 3":  "image = 3: expected a table",
		"[image":     "line 1: ",
		"[[image]]":  "image = [map[]]: expected a table",
		"[image]\nx": "line 2: ",
	} {
		if _, err := Parse(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if _, err := Load(path); err == nil {
		t.Error("a named file that is missing gives no error")
	}
	if err := os.WriteFile(path, []byte("[image]\nx = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
}
