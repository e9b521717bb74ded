package imagerun

import (
	"fmt"
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
	script := "ls layers | wc -l; cat layers/* | sort -n | tail -1; cat same; ls -d passing*; echo x >new; ls -d /sys/block/vd* | wc -l"
	for _, tt := range []struct{ most, disks int }{{15, 16}, {layers, layers + 1}} {
		t.Run(fmt.Sprintf("at most %d", tt.most), func(t *testing.T) {
			e := e.With(t).Configured(testenv.Settings{
				"image.root": fmt.Sprintf("%q", e.Path(fmt.Sprintf("store%d", tt.most))), "image.max_layers": fmt.Sprint(tt.most),
			})
			res := e.OK("run", "--network", "none", name, "sh", "-c", script)
			e.Equal("what is in the layers", res.Stdout, fmt.Sprintf("%d\n%d\nof %d\npassing-%d\n%d\n", layers-1, layers-1, layers-1, layers-1, tt.disks))
		})
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
