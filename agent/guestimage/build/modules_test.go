package build

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

func TestSelectModules(t *testing.T) {
	tree, err := readModuleTree(filepath.Join("testdata", "modules"))
	if err != nil {
		t.Fatal(err)
	}
	selected, err := selectModules(tree)
	if err != nil {
		t.Fatal(err)
	}
	got := eachPath(selected, func(p string) string { return strings.TrimPrefix(guestModule(p), guestimage.ModulesDir+"/") })
	want := guestimage.Modules{
		Boot: []string{"virtio_ring.ko", "virtio.ko", "virtio_pci_modern_dev.ko", "virtio_pci.ko", "virtio_console.ko"},
		Groups: map[guestimage.ModuleGroup][]string{
			guestimage.GroupVirtiofs: {"fuse.ko", "virtiofs.ko"},
			guestimage.GroupOverlay:  {"overlay.ko"},
			// A soft dependency by alias: the generic of its two providers.
			guestimage.GroupErofs:        {"crc32c_generic.ko", "libcrc32c.ko", "erofs.ko"},
			guestimage.GroupExt4:         {"mbcache.ko", "jbd2.ko", "crc32c_generic.ko", "ext4.ko"},
			guestimage.GroupBlock:        {"virtio_blk.ko"},
			guestimage.GroupNet:          {"failover.ko", "net_failover.ko", "virtio_net.ko"},
			guestimage.GroupVsock:        {"vsock.ko", "vmw_vsock_virtio_transport_common.ko", "vmw_vsock_virtio_transport.ko"},
			guestimage.GroupVsockSockets: {"vsock.ko", "vmw_vsock_virtio_transport_common.ko"},
			guestimage.GroupRNG:          {}, // built in
			guestimage.GroupBalloon:      {"virtio_balloon.ko"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
}

func TestOrderNamesWhatIsMissing(t *testing.T) {
	tree := &moduleTree{
		files: map[string]string{"a": "a.ko"},
		deps:  map[string][]string{"a": {"b"}},
	}
	_, err := tree.order([]string{"a"}, nil)
	if err == nil || err.Error() != `a: kernel has no module "b"` {
		t.Errorf("order: %v", err)
	}
}

// Two modules that each would like the other to be there first.
func TestOrderEndsInARing(t *testing.T) {
	tree := &moduleTree{
		files: map[string]string{"a": "a.ko", "b": "b.ko"},
		soft:  map[string][]string{"a": {"b"}, "b": {"a"}},
	}
	got, err := tree.order([]string{"a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b.ko", "a.ko"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{
		"kernel/drivers/char/hw_random/virtio-rng.ko": "virtio_rng",
		"kernel/fs/fuse/fuse.ko.xz":                   "fuse",
	} {
		if got := moduleName(file); got != want {
			t.Errorf("moduleName(%q) = %q, want %q", file, got, want)
		}
	}
}
