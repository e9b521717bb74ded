package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vc-runtime/vc-runtime/state"
)

// Pin says that a container uses an image.
type Pin struct {
	Version   int    `json:"version"`
	Container string `json:"container"`
	Image     *Image `json:"image"`
	// Boot is the boot of the machine that the container is of: no container
	// outlives it.
	Boot string `json:"boot"`
	// Maker is who made the pin, which is older than its container.
	Maker state.Process `json:"maker"`
	Made  time.Time     `json:"made"`
}

const pinSuffix = ".pin"

// Pin keeps an image for a container until Unpin, or until the machine's next
// boot. The lease must name all of the image (Use and PutImage see to that),
// and is to be closed after this: then there is no moment at which nothing
// keeps the image. A pin that the container has is replaced.
func (l *Lease) Pin(ctx context.Context, container string, img *Image) error {
	if err := l.pin(ctx, container, img); err != nil {
		return fmt.Errorf("pin image %s for container %s: %w", img.Name, container, err)
	}
	return nil
}

func (l *Lease) pin(ctx context.Context, container string, img *Image) error {
	if err := state.ValidateID(container); err != nil {
		return err
	}
	if err := img.check(); err != nil {
		return err
	}
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	self, err := state.Self()
	if err != nil {
		return err
	}
	meta, err := l.s.shared(ctx)
	if err != nil {
		return err
	}
	defer meta.release()
	if err := l.complete(img); err != nil {
		return err
	}
	return l.s.replace("pin", l.s.path(containersDir), container+pinSuffix, Pin{
		Version: formatVersion, Container: container, Image: img, Boot: boot, Maker: self, Made: time.Now(),
	})
}

// Unpin ends what Pin began. It is no error if there is no pin.
func (s *Store) Unpin(ctx context.Context, container string) error {
	if err := state.ValidateID(container); err != nil {
		return fmt.Errorf("unpin container %q: %w", container, err)
	}
	meta, err := s.shared(ctx)
	if err != nil {
		return err
	}
	defer meta.release()
	err = s.step("pin.remove", func() error { return os.Remove(s.path(containersDir, container+pinSuffix)) })
	if err != nil && !missing(err) {
		return fmt.Errorf("unpin container %s: %w", container, err)
	}
	return nil
}

// Pinned gives the pin of a container, or ErrNotExist.
func (s *Store) Pinned(container string) (*Pin, error) {
	if err := state.ValidateID(container); err != nil {
		return nil, fmt.Errorf("pin of container %q: %w", container, err)
	}
	p, err := s.readPin(container + pinSuffix)
	if missing(err) {
		return nil, fmt.Errorf("pin of container %s: %w", container, ErrNotExist)
	}
	return p, err
}

// Pins lists the pins.
func (s *Store) Pins() ([]*Pin, error) {
	pins, err := readRecords(s, containersDir, pinSuffix, s.readPin)
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	return pins, nil
}

func (s *Store) readPin(file string) (*Pin, error) {
	path := s.path(containersDir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := new(Pin)
	if err := decode(path, text, p); err != nil {
		return nil, err
	}
	switch {
	case p.Version != formatVersion:
		err = fmt.Errorf("version %d", p.Version)
	case p.Container != strings.TrimSuffix(file, pinSuffix):
		err = fmt.Errorf("it is the pin of %q", p.Container)
	case p.Image == nil:
		err = errors.New("no image")
	default:
		err = p.Image.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	return p, nil
}

// stale reports whether no container can be behind the pin any more. known
// says whether there is a container of an id; nil says yes to all.
func (p *Pin) stale(boot string, known func(string) (bool, error)) (bool, error) {
	if p.Boot != boot {
		return true, nil
	}
	if known == nil || p.Maker.Alive() {
		return false, nil
	}
	there, err := known(p.Container)
	return !there, err
}
