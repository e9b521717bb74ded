package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qmp"
	"github.com/vc-runtime/vc-runtime/trace"
)

// stateName is what QEMU knows the file with the saved state by.
const stateName = "template"

// eventMigration tells of each step of a migration (QEMU: qapi/migration.json).
const eventMigration = "MIGRATION"

// Save is hypervisor.Saver. The machine runs until its state is taken: one
// that was stopped before would make clones that are stopped too.
func (v *vm) Save(ctx context.Context, state *os.File) error {
	if err := v.migrate(ctx, "migrate", state); err != nil {
		return fmt.Errorf("save the machine: %w", v.explain(err))
	}
	return nil
}

// clone starts a machine from a template. QEMU starts while the memory is
// being copied: it does not look at it before it gets the state.
func clone(ctx context.Context, cfg hypervisor.Config) (hypervisor.VM, error) {
	state, err := os.Open(cfg.Template.State)
	if err != nil {
		return nil, fmt.Errorf("clone: %w", err)
	}
	defer state.Close()
	memory, err := newMemory(cfg.Template.Memory, int64(cfg.MemoryMiB)<<20)
	if err != nil {
		return nil, fmt.Errorf("clone: %w", err)
	}
	copied := make(chan error, 1)
	go func() {
		defer trace.Begin(trace.Lane(ctx, "memory"), trace.Phase, "copy the template's memory").End()
		copied <- memory.fill(ctx)
	}()

	v, err := begin(ctx, cfg, memory)
	copyErr := <-copied
	memory.template.Close()
	if err != nil {
		memory.Close()
		return nil, fmt.Errorf("clone: %w", errors.Join(err, copyErr))
	}
	if copyErr == nil {
		defer trace.Begin(ctx, trace.Phase, "restore").End()
		copyErr = v.migrate(ctx, "migrate-incoming", state)
	}
	if copyErr != nil {
		return nil, fmt.Errorf("clone: %w", v.stillborn(ctx, copyErr))
	}
	return v, nil
}

// migrate runs one side of a migration to or from a file, without the memory,
// and waits for its end.
func (v *vm) migrate(ctx context.Context, command string, state *os.File) error {
	steps := v.qmp.Subscribe(16, func(e qmp.Event) bool { return e.Name == eventMigration })
	defer steps.Close()
	// x-ignore-shared: memory that others can map is not in the state.
	err := v.qmp.Execute(ctx, "migrate-set-capabilities", capabilitiesOn("events", "x-ignore-shared"), nil)
	if err != nil {
		return err
	}
	if err := v.qmp.SendFile(ctx, stateName, state); err != nil {
		return err
	}
	if err := v.qmp.Execute(ctx, command, uriArgs{"fd:" + stateName}, nil); err != nil {
		return err
	}
	for {
		select {
		case e := <-steps.C:
			var step struct {
				Status string `json:"status"`
			}
			if err := json.Unmarshal(e.Data, &step); err != nil {
				return fmt.Errorf("event %s: %w", e.Name, err)
			}
			switch step.Status {
			case "completed":
				return nil
			case "failed", "cancelled":
				return fmt.Errorf("%s: %w", command, errMigration)
			}
		case <-v.qmp.Done():
			return v.qmp.Err()
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", command, ctx.Err())
		}
	}
}

// errMigration is that QEMU could not write or use a state; it says why on
// its stderr.
var errMigration = fmt.Errorf("the state of the machine: %w", unix.EIO)

// uriArgs are the arguments of migrate and migrate-incoming.
type uriArgs struct {
	URI string `json:"uri"`
}

type capability struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

type capabilitiesArgs struct {
	Capabilities []capability `json:"capabilities"`
}

func capabilitiesOn(names ...string) capabilitiesArgs {
	var a capabilitiesArgs
	for _, name := range names {
		a.Capabilities = append(a.Capabilities, capability{name, true})
	}
	return a
}
