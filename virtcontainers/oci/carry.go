package oci

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
)

// Dropped is a part of the bundle that the guest does not get.
type Dropped struct {
	Field  string // path in JSON with indices: mounts[3].options
	Reason string
}

// report collects what is left behind, each field once.
type report struct {
	dropped []Dropped
	seen    map[string]bool
}

func newReport() *report { return &report{seen: make(map[string]bool)} }

func (r *report) drop(field, reason string) {
	if !r.seen[field] {
		r.seen[field] = true
		r.dropped = append(r.dropped, Dropped{field, reason})
	}
}

// carry makes a new T with the fields of src that the table carries. Fields
// that it drops are reported where they are set, those that it refuses are an
// error; everything else, a field without a row included, stays empty. path is
// where src is in config.json, "" for the whole.
func carry[T any](r *report, src *T, path string) (*T, error) {
	dst := new(T)
	if err := r.carryStruct(reflect.ValueOf(dst).Elem(), reflect.ValueOf(src).Elem(), path); err != nil {
		return nil, err
	}
	return dst, nil
}

func (r *report) carryStruct(dst, src reflect.Value, path string) error {
	for i := range src.NumField() {
		field := path
		if f := src.Type().Field(i); !f.Anonymous {
			field = join(path, jsonName(f))
		}
		if err := r.carryField(dst.Field(i), src.Field(i), field); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) carryField(dst, src reflect.Value, field string) error {
	row, ok := fieldIndex[rowPath(field)]
	if !ok {
		return r.carryGroup(dst, src, field)
	}
	switch row.disposition {
	case carried:
		dst.Set(src)
	case dropped:
		if isSet(src) {
			r.drop(field, row.reason)
		}
	case refused:
		if isSet(src) {
			return fmt.Errorf("%s: %s", field, row.reason)
		}
	case mapped, host:
	}
	return nil
}

// carryGroup goes into a structure, or a list of structures, that has no row
// of its own. A leaf without a row is left out.
func (r *report) carryGroup(dst, src reflect.Value, field string) error {
	switch {
	case src.Kind() == reflect.Struct:
		return r.carryStruct(dst, src, field)
	case src.Kind() == reflect.Pointer && src.Type().Elem().Kind() == reflect.Struct:
		if src.IsNil() {
			return nil
		}
		dst.Set(reflect.New(src.Type().Elem()))
		return r.carryStruct(dst.Elem(), src.Elem(), field)
	case src.Kind() == reflect.Slice && src.Type().Elem().Kind() == reflect.Struct:
		if src.Len() == 0 {
			return nil
		}
		dst.Set(reflect.MakeSlice(src.Type(), src.Len(), src.Len()))
		for i := range src.Len() {
			if err := r.carryStruct(dst.Index(i), src.Index(i), fmt.Sprintf("%s[%d]", field, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// isSet says whether the bundle asks for something: an empty list or a pointer
// to a zero does not.
func isSet(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return !v.IsNil() && isSet(v.Elem())
	case reflect.Slice, reflect.Map:
		return v.Len() > 0
	case reflect.Struct:
		for i := range v.NumField() {
			if isSet(v.Field(i)) {
				return true
			}
		}
		return false
	}
	return !v.IsZero()
}

// checkStrings refuses a NUL byte in any string of v: the guest's runtime is
// written in C and would see a shorter one than was checked here.
func checkStrings[T any](v *T, path string) error {
	return checkValue(reflect.ValueOf(v), path)
}

func checkValue(v reflect.Value, path string) error {
	switch v.Kind() {
	case reflect.String:
		if strings.ContainsRune(v.String(), 0) {
			return fmt.Errorf("%s: contains a NUL byte", path)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return checkValue(v.Elem(), path)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if err := checkValue(v.Field(i), join(path, jsonName(v.Type().Field(i)))); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkValue(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := checkValue(it.Key(), path); err != nil {
				return err
			}
			if err := checkValue(it.Value(), path); err != nil {
				return err
			}
		}
	}
	return nil
}

// jsonName gives the name of a field in config.json.
func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

var indices = regexp.MustCompile(`\[\d+\]`)

// rowPath is the path of a field's row in the table.
func rowPath(field string) string { return indices.ReplaceAllString(field, "[]") }
