package server

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// device is a block device of the guest that a container gets.
type device struct {
	*api.DiskNode
	major, minor uint32
}

// checkDisks checks what a request says of disks.
func checkDisks(req *api.CreateContainerRequest) error {
	serials := req.GetRoot().GetLayers()
	if root := req.GetRoot(); root != nil {
		if len(serials) == 0 {
			return fmt.Errorf("rootfs without layers: %w", errSpec)
		}
		serials = append(serials[:len(serials):len(serials)], root.GetUpper())
	}
	for _, d := range req.GetDisks() {
		if !filepath.IsAbs(d.GetPath()) || filepath.Clean(d.GetPath()) != d.GetPath() || d.GetMode() > 0o777 || strings.Trim(d.GetAccess(), "rwm") != "" {
			return fmt.Errorf("disk %.100q at %.300q, mode %#o, access %.10q: %w", d.GetSerial(), d.GetPath(), d.GetMode(), d.GetAccess(), errSpec)
		}
		serials = append(serials[:len(serials):len(serials)], d.GetSerial())
	}
	for _, serial := range serials {
		if err := checkName("disk", serial); err != nil {
			return err
		}
	}
	return nil
}

// devices finds the disks that a container gets.
func (c *container) devices(ctx context.Context, nodes []*api.DiskNode) ([]device, error) {
	var found []device
	for _, node := range nodes {
		major, minor, err := c.host.cfg.Disks.Number(ctx, node.GetSerial())
		if err != nil {
			return nil, err
		}
		found = append(found, device{node, major, minor})
	}
	return found, nil
}

// addDevices adds block devices to a spec's linux object, and what allows
// their use: the last rule counts.
func addDevices(linux object, devices []device) error {
	if len(devices) == 0 {
		return nil
	}
	var nodes, rules []object
	var resources object
	if err := linux.get("devices", &nodes); err != nil {
		return err
	}
	if err := linux.get("resources", &resources); err != nil {
		return err
	}
	if err := resources.get("devices", &rules); err != nil {
		return err
	}
	if resources == nil {
		resources = object{}
	}
	for _, d := range devices {
		nodes = append(nodes, object{
			"path": d.GetPath(), "type": "b", "major": d.major, "minor": d.minor,
			"fileMode": d.GetMode(), "uid": d.GetUid(), "gid": d.GetGid(),
		})
		rules = append(rules, object{
			"allow": true, "type": "b", "major": d.major, "minor": d.minor, "access": d.GetAccess(),
		})
	}
	resources["devices"] = rules
	linux["devices"], linux["resources"] = nodes, resources
	return nil
}
