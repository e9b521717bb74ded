package oci

import (
	"encoding/json"
	"fmt"
	"reflect"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Resources gives what a record has to keep of a bundle's limits for updates
// to come, as an OCI resources object in JSON.
func (b *Bundle) Resources() ([]byte, error) {
	res := &specs.LinuxResources{}
	if r := b.Limits(); r != nil {
		*res = *r
	}
	return encodeKept(res)
}

// Limits gives the bundle's limits as they are; nil for none.
func (b *Bundle) Limits() *specs.LinuxResources {
	if b.Spec.Linux == nil {
		return nil
	}
	return b.Spec.Linux.Resources
}

// UpdateResources lays change, the resources object of an update, over what
// Resources or an earlier update has given. As for runc, a zero in a change
// says nothing, and rules for devices cannot be changed.
func UpdateResources(kept, change []byte) ([]byte, error) {
	res := &specs.LinuxResources{}
	if len(kept) > 0 {
		if err := decode("recorded resources", kept, res); err != nil {
			return nil, err
		}
	}
	var src *specs.LinuxResources
	if err := decode("resources", change, &src); err != nil {
		return nil, err
	}
	if src == nil {
		return encodeKept(res)
	}
	clearZeros(reflect.ValueOf(src).Elem())
	var swap *int64
	if src.Memory != nil {
		swap = src.Memory.Swap
	}
	src.Devices = nil
	said, err := json.Marshal(src)
	if err != nil {
		return nil, fmt.Errorf("encode resources: %w", err)
	}
	if err := json.Unmarshal(said, res); err != nil {
		return nil, fmt.Errorf("update resources: %w", err)
	}
	// A swap limit has the memory's in it. One that has become too small was
	// not asked for.
	if m := res.Memory; m != nil && swap == nil && m.Swap != nil && m.Limit != nil && *m.Swap > 0 && *m.Swap < *m.Limit {
		m.Swap = nil
	}
	return encodeKept(res)
}

func encodeKept(res *specs.LinuxResources) ([]byte, error) {
	res.Devices = nil
	if res.Memory != nil {
		m := *res.Memory
		m.CheckBeforeUpdate = nil
		res.Memory = &m
	}
	data, err := json.Marshal(res)
	if err != nil {
		return nil, fmt.Errorf("encode resources: %w", err)
	}
	return data, nil
}

// clearZeros makes nil of pointers to a zero.
func clearZeros(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Pointer || f.IsNil() {
			continue
		}
		if f.Elem().Kind() == reflect.Struct {
			clearZeros(f.Elem())
		} else if f.Elem().IsZero() {
			f.SetZero()
		}
	}
}
