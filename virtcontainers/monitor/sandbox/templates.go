package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/template"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// templatesFolder is that of the store, in the cache.
const templatesFolder = "templates"

func openTemplates(hv *config.Hypervisor) (*template.Store, error) {
	return template.Open(filepath.Join(hv.CacheDir, templatesFolder))
}

// Templates are the saved machines of a configuration, for whoever looks after
// them: the template command. Where it makes one it is the process that owns the
// machine.
type Templates struct {
	cfg monitor.SandboxConfig
}

// NewTemplates takes a configuration, the root of the state and the runtime's
// path.
func NewTemplates(cfg *config.Config, root, exe string) *Templates {
	return &Templates{cfg: monitor.SandboxConfig{ID: "template", Root: root, Exe: exe, Config: *cfg}}
}

// TemplateInfo describes a template.
type TemplateInfo struct {
	Key     string    `json:"key"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"`
	Size    int64     `json:"size"`   // bytes on disk
	InUse   bool      `json:"inUse"`  // a clone of it lives
	Memory  int64     `json:"memory"` // of the machine, in bytes
	CPUs    int       `json:"cpus"`
	Accel   string    `json:"accel"`
	// Useless says why nobody can use it any more; "" for one that can be used.
	Useless string `json:"useless,omitempty"`
}

// Create makes the template of the configured machine where there is none, or
// the one there does not work, and gives its key. A clone of it has answered
// when this returns.
func (t *Templates) Create(ctx context.Context) (key string, made bool, err error) {
	b, _, err := prepare(ctx, &t.cfg)
	if err != nil {
		return "", false, err
	}
	b.started = func(hypervisor.VM) error { return nil } // it dies with this process
	b.check, b.retry = true, true
	place, err := b.place(ctx)
	if err != nil {
		return "", false, err
	}
	defer place.Close()
	if err := b.room(); err != nil {
		return "", false, err
	}
	m, err := b.clone(ctx)
	if b.dropVsock(ctx, err) {
		m, err = b.clone(ctx)
	}
	if err != nil && b.from != nil && !b.made && ctx.Err() == nil {
		m, err = b.clone(ctx) // the one that did not work has been removed
	}
	if err != nil {
		return "", false, fmt.Errorf("create the template: %w", err)
	}
	defer m.template.Close()
	defer m.Guest.Close()
	return b.from.Name(), b.made, m.VM.Kill()
}

// Ensure is Create where there is no template.
func (t *Templates) Ensure(ctx context.Context) error {
	b, _, err := prepare(ctx, &t.cfg)
	if err != nil {
		return err
	}
	store, err := t.open()
	if err != nil {
		return err
	}
	key, err := template.NewKey(b.machine, b.imageID)
	if err != nil {
		return err
	}
	if _, _, err = store.Get(ctx, key, nil); errors.Is(err, template.ErrNone) {
		_, _, err = t.Create(ctx)
	}
	return err
}

// List describes all templates, the one used last first.
func (t *Templates) List() ([]TemplateInfo, error) {
	store, err := t.open()
	if err != nil {
		return nil, err
	}
	all, err := store.List()
	if err != nil {
		return nil, err
	}
	infos := make([]TemplateInfo, 0, len(all)) // an array in JSON, never null
	for _, i := range all {
		infos = append(infos, TemplateInfo{
			Key: i.Name, Created: i.Created, Used: i.Used, Size: i.Size, InUse: i.InUse,
			Memory: int64(i.Machine.MemoryMiB) << 20, CPUs: i.Machine.CPUs, Accel: string(i.Machine.Accel),
			Useless: i.Useless,
		})
	}
	return infos, nil
}

// Remove removes the template whose key is, or begins with, the given text.
// Clones of it are not disturbed.
func (t *Templates) Remove(ctx context.Context, key string) error {
	store, err := t.open()
	if err != nil {
		return err
	}
	name, err := store.RemoveNamed(ctx, key)
	if err != nil {
		return err
	}
	return t.endSpares(ctx, name)
}

// endSpares ends the spares that are clones of templates that have gone.
func (t *Templates) endSpares(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	store, err := state.Open(t.cfg.Root)
	if err != nil {
		return err
	}
	_, err = spare.EndAll(ctx, store, func(sp *state.Spare) bool { return slices.Contains(names, sp.Template) })
	return err
}

// Collect removes the templates that nobody can use any more, and those that
// nobody has used for long, and gives their keys.
func (t *Templates) Collect(ctx context.Context) ([]string, error) {
	store, err := t.open()
	if err != nil {
		return nil, err
	}
	names, err := store.Collect(ctx)
	return names, errors.Join(err, t.endSpares(ctx, names...))
}

func (t *Templates) open() (*template.Store, error) {
	if err := makeCache(&t.cfg); err != nil {
		return nil, err
	}
	return openTemplates(&t.cfg.Config.Hypervisor)
}
