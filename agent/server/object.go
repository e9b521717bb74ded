package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// object is a JSON object of which only some members are looked at; the rest
// is passed on as it is. A specification is decoded once, changed in place, and
// encoded once: of members with one name only one is left, so that the guest's
// OCI runtime reads what was looked at here.
type object map[string]any

// decodeObject decodes what is one JSON object and nothing else; null is nil.
// Numbers stay as they are written: a limit may have more digits than a float.
func decodeObject(b []byte) (object, error) {
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.UseNumber()
	var o object
	if err := decoder.Decode(&o); err != nil {
		return nil, fmt.Errorf("%w (%w)", errSpec, err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("more after the object: %w", errSpec)
	}
	return o, nil
}

// get gives a member in v: a pointer to a string, an object, a list of either,
// or to what encoding/json decodes. A member that is missing or null leaves v
// alone. What is given of objects is the member itself, not a copy.
func (o object) get(key string, v any) error {
	value := o[key]
	if value == nil {
		return nil
	}
	ok := false
	switch v := v.(type) {
	case *string:
		*v, ok = toString(value)
	case *object:
		*v, ok = toObject(value)
	case *[]string:
		*v, ok = toList(value, toString)
	case *[]object:
		*v, ok = toList(value, toObject)
	default:
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("%s: %w (%w)", key, errSpec, err)
		}
		return nil
	}
	if !ok {
		return fmt.Errorf("%s: %w: got %.100v, a %T, where a %T was expected", key, errSpec, value, value, v)
	}
	return nil
}

// toString takes null for an empty string, as encoding/json does.
func toString(value any) (string, bool) {
	s, ok := value.(string)
	return s, ok || value == nil
}

func toObject(value any) (object, bool) {
	switch value := value.(type) {
	case nil:
		return nil, true
	case object:
		return value, true
	case map[string]any:
		return value, true
	}
	return nil, false
}

// toList converts a list as it was decoded; one that was set is what it is.
func toList[T any](value any, convert func(any) (T, bool)) ([]T, bool) {
	if list, ok := value.([]T); ok {
		return list, true
	}
	decoded, ok := value.([]any)
	if !ok {
		return nil, false
	}
	list := make([]T, len(decoded))
	for i, element := range decoded {
		if list[i], ok = convert(element); !ok {
			return nil, false
		}
	}
	return list, true
}
