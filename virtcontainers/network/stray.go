package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// StrayTap is a tap or macvtap that looks like one of ours but outlives who has it open.
type StrayTap struct {
	Name  string
	netns string // path
}

// netnsDir is where engines and ip(8) keep network namespaces.
const netnsDir = "/run/netns"

// StrayTaps looks for taps of ours that are persistent, and macvtaps, in the caller's network
// namespace and those in /run/netns. The runtime makes none: they would stay when
// a machine dies.
func StrayTaps(ctx context.Context) ([]StrayTap, error) {
	paths := []string{"/proc/self/ns/net"}
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(netnsDir, e.Name()))
	}
	var found []StrayTap
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := inNamespaceAt(path, func(h *netlink.Handle) error {
			links, err := h.LinkList()
			if err != nil {
				return err
			}
			for _, l := range links {
				if isStray(l) {
					found = append(found, StrayTap{Name: l.Attrs().Name, netns: path})
				}
			}
			return nil
		})
		if err != nil && path == paths[0] { // others may be no namespaces, or gone
			return nil, fmt.Errorf("list interfaces: %w", err)
		}
	}
	return found, nil
}

func isStray(l netlink.Link) bool {
	if !strings.HasPrefix(l.Attrs().Name, tapPrefix) {
		return false
	}
	switch t := l.(type) {
	case *netlink.Tuntap:
		return t.Mode == netlink.TUNTAP_MODE_TAP && !t.NonPersist
	case *netlink.Macvtap: // those of a machine are in namespaces without names
		return true
	}
	return false
}

// Remove deletes the tap, if it still is what it was.
func (s StrayTap) Remove(context.Context) error {
	return inNamespaceAt(s.netns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(s.Name)
		if isGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !isStray(l) {
			return fmt.Errorf("tap %s: %w", s.Name, ErrBusy)
		}
		return h.LinkDel(l)
	})
}

func inNamespaceAt(path string, do func(*netlink.Handle) error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return inNamespace(ns, do)
}
