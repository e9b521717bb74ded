package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/image/store"
	"github.com/vc-runtime/vc-runtime/virtcontainers/bundle"
)

// hooks join the network once the container's namespace is there, and give back
// what the container had when it is gone.
func (r *imageRun) hooks(dir string) (*specs.Hooks, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the runtime's own executable: %w", err)
	}
	hook := func(args ...string) specs.Hook {
		limit := int(hookTimeout / time.Second)
		return specs.Hook{
			Path: exe, Args: append([]string{name, imageHook}, args...), Timeout: &limit,
			// What plugins call by name, iptables above all.
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		}
	}
	h := &specs.Hooks{Poststop: []specs.Hook{hook(hookRelease, r.store.Root(), r.name)}}
	if r.network != nil {
		h.CreateRuntime = []specs.Hook{hook(hookJoin, dir)}
	}
	return h, nil
}

func releaseBundle(ctx context.Context, images *store.Store, dir string) error {
	if err := bundle.Release(ctx, dir); err != nil {
		return err
	}
	return images.Unpin(ctx, filepath.Base(dir))
}

// The hooks of containers that are run from images: hidden, like the runtime's
// other processes.
const (
	imageHook   = "image-hook"
	hookJoin    = "join"    // FOLDER of the bundle; the state is on stdin
	hookRelease = "release" // ROOT of the image store, NAME of the bundle

	hookTimeout = time.Minute
)

// imageHookMain is the process of a hook.
func imageHookMain(args []string, stdin io.Reader, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), hookTimeout)
	defer cancel()
	err := errors.New("image-hook: it is for vc-runtime's own use")
	switch {
	case len(args) == 2 && args[0] == hookJoin:
		err = joinNetwork(ctx, args[1], stdin)
	case len(args) == 3 && args[0] == hookRelease:
		var images *store.Store
		if images, err = store.Open(args[1], store.Options{}); err == nil {
			err = releaseBundle(ctx, images, filepath.Join(bundlesOf(images), args[2]))
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, oneLine(err.Error()))
		return 1
	}
	return 0
}

// joinNetwork joins the network of a bundle's container.
func joinNetwork(ctx context.Context, dir string, stdin io.Reader) error {
	var st specs.State
	if err := json.NewDecoder(stdin).Decode(&st); err != nil {
		return fmt.Errorf("read the container's state: %w", err)
	}
	if st.Pid <= 0 {
		return fmt.Errorf("state.pid = %d: expected the container's process", st.Pid)
	}
	owner, err := bundle.OwnerOf(dir)
	if err != nil {
		return err
	}
	if owner.Network == nil {
		return fmt.Errorf("%s: no network is named there", dir)
	}
	return owner.Network.Join(ctx, fmt.Sprintf("/proc/%d/ns/net", st.Pid))
}
