package imagerun

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// deep makes an image of that many layers: each has a file of its own, the file that
// all have, and removes the one that the layer before has left to it.
func deep(e *testenv.Env, layers int) string {
	e.Helper()
	list := [][]byte{base(e)}
	for i := 1; i < layers; i++ {
		files := []file{
			{name: "layers/"}, {name: fmt.Sprintf("layers/%d", i), content: fmt.Sprintf("%d\n", i)},
			{name: "same", content: fmt.Sprintf("of %d\n", i)}, {name: fmt.Sprintf("passing-%d", i)},
		}
		if i > 1 {
			files = append(files, file{name: fmt.Sprintf(".wh.passing-%d", i-1)})
		}
		list = append(list, layerOf(e, files...))
	}
	return layout(e, fmt.Sprintf("image%d", layers), v1.ImageConfig{}, list...)
}

// An image of 40 layers runs: with the lowest merged, as by default, and with each
// as a disk of its own, on several functions of several slots. More disks than the
// machine has places for are refused before anything runs.
func TestManyLayers(t *testing.T) {
	e := newEnv(t)
	const layers = 40
	name := deep(e, layers)
	for _, most := range []int{15, layers} {
		t.Run(fmt.Sprintf("at most %d", most), func(t *testing.T) { runDeep(e.With(t), name, layers, most) })
	}
	t.Run("too many", func(t *testing.T) {
		e := e.With(t).Configured(testenv.Settings{
			"image.root": fmt.Sprintf("%q", e.Path("store40")), "image.max_layers": "40", "hypervisor.hotplug_slots": "4",
		})
		res := e.Do("run", "--network", "none", name, "true")
		if res.Code != 125 || !strings.Contains(res.Stderr, "hypervisor.hotplug_slots") {
			t.Errorf("41 disks on 4 slots: %s", res)
		}
	})
}

// More layers than an overlay of docker's has (128) run as any others, and with as
// many disks as the configuration allows.
func TestMoreThan128Layers(t *testing.T) {
	e := newEnv(t)
	for _, tt := range []struct{ layers, most int }{{129, 15}, {200, 64}} {
		t.Run(fmt.Sprintf("%d as %d", tt.layers, tt.most), func(t *testing.T) {
			runDeep(e.With(t), deep(e, tt.layers), tt.layers, tt.most)
		})
	}
	t.Run("more disks", func(t *testing.T) {
		e := e.With(t).Configured(testenv.Settings{"image.max_layers": "65"})
		e.FailedWith(e.Do("image", "ls"), 1, "image.max_layers = 65: expected a number from 1 to 64")
	})
	t.Run("513", func(t *testing.T) {
		e := e.With(t)
		layers := slices.Repeat([][]byte{layerOf(e, file{name: "x"})}, 513)
		e.FailedWith(e.Do("image", "pull", layout(e, "image513", v1.ImageConfig{}, layers...)), 1, "513 layers: expected at most 512")
		leftovers(e)
	})
}

// runDeep runs an image that deep has made, as that many disks at most.
func runDeep(e *testenv.Env, name string, layers, most int) {
	e.Helper()
	settings := testenv.Settings{"image.root": fmt.Sprintf("%q", e.Path(fmt.Sprintf("store%d", most))), "image.max_layers": fmt.Sprint(most)}
	if most > 56 { // with what the container writes more than seven slots have
		settings["hypervisor.hotplug_slots"] = "12"
	}
	e = e.Configured(settings)
	res := e.OK("run", "--network", "none", name, "sh", "-c",
		"ls layers | wc -l; cat layers/* | sort -n | tail -1; cat same; ls -d passing*; echo x >new; ls -d /sys/block/vd* | wc -l")
	e.Equal("what is in the layers", res.Stdout, fmt.Sprintf("%d\n%d\nof %d\npassing-%d\n%d\n", layers-1, layers-1, layers-1, layers-1, most+1))
}

// An image without layers is an empty folder: it is pulled, inspected, exported,
// unpacked, and run with what the user puts there.
func TestNoLayers(t *testing.T) {
	e := newEnv(t)
	name := layout(e, "empty", v1.ImageConfig{Env: []string{"FROM=image"}})
	e.OK("image", "pull", name)
	e.OK("image", "fsck", "--content")
	e.OK("image", "unpack", name, e.Path("bundle"))
	if entries, err := os.ReadDir(e.Path("bundle/rootfs")); err != nil || len(entries) > 0 {
		t.Errorf("the bundle's rootfs has %v, %v", entries, err)
	}
	e.OK("image", "export", name, e.Path("archive"))
	e.OK("image", "rm", name)
	e.OK("image", "import", "oci-archive:"+e.Path("archive"), "empty")
	res := e.Do("run", "--network", "none", "--rm", "-v", e.Base+":/host:ro", "empty", "/host/bin/busybox", "sh", "-c",
		"PATH=/host/bin; echo $FROM; echo x >/written; cat /written; ls -d /bin /usr /layers || exit 3")
	e.Equal("what is said", res.Stdout, "image\nx\n")
	e.Equal("exit code", res.Code, 3)
	e.FailedWith(e.Do("run", "--network", "none", "empty", "true"), 127, "executable file not found in $PATH")
}
