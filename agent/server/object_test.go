package server

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func decoded(t *testing.T, text string) object {
	t.Helper()
	o, err := decodeObject([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestObjectIsPassedOn: what nobody looks at stays as it is written, and of
// members with one name one is left, whatever they are in.
func TestObjectIsPassedOn(t *testing.T) {
	for text, want := range map[string]string{
		`{"limit":9223372036854775807,"e":1e3,"f":0.10}`:  `{"e":1e3,"f":0.10,"limit":9223372036854775807}`,
		`{"a":null,"b":[null,{}],"c":{"d":[1,"x",true]}}`: `{"a":null,"b":[null,{}],"c":{"d":[1,"x",true]}}`,
		`{"a":{"b":[{"path":"x","path":"y"}]}}`:           `{"a":{"b":[{"path":"y"}]}}`,
		`null`:                                            `null`,
	} {
		if got := encoded(t, decoded(t, text)); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{``, `[]`, `"x"`, `{"a":1`, `{} {}`, `{}x`, `{"a":1}]`} {
		if o, err := decodeObject([]byte(text)); !errors.Is(err, errSpec) {
			t.Errorf("%s: got %v, %v, want a refusal", text, o, err)
		}
	}
}

func TestObjectGet(t *testing.T) {
	o := decoded(t, `{"text":"x","texts":["a",null],"object":{"n":1},"objects":[{"n":2},null],"none":null,"struct":{"N":3}}`)
	var text string
	var texts []string
	var inner object
	var inners []object
	var other struct{ N int }
	get := func(key string, v any) {
		t.Helper()
		if err := o.get(key, v); err != nil {
			t.Error(err)
		}
	}
	get("text", &text)
	get("none", &text) // leaves it alone
	get("missing", &text)
	get("texts", &texts)
	get("object", &inner)
	get("objects", &inners)
	get("struct", &other)
	if text != "x" || encoded(t, texts) != `["a",""]` || other.N != 3 || len(inners) != 2 || inners[1] != nil {
		t.Errorf("got %q, %q, %v, %v", text, texts, other, inners)
	}
	inner["n"], inners[0]["n"], o["set"] = 4, 5, []string{"b"} // in place
	if got := encoded(t, o); !strings.Contains(got, `"object":{"n":4},"objects":[{"n":5},null]`) {
		t.Errorf("got %s", got)
	}
	if get("set", &texts); encoded(t, texts) != `["b"]` {
		t.Errorf("got %q", texts)
	}
	for key, wrong := range map[string][]any{
		"text":    {new([]string), new(object), new([]object), new([]int)},
		"texts":   {new(string), new(object), new([]object), new([]int)},
		"object":  {new(string), new([]string), new([]object), new([]int)},
		"objects": {new(string), new([]string), new(object), new([]int)},
	} {
		for _, v := range wrong {
			if err := o.get(key, v); !errors.Is(err, errSpec) || !strings.HasPrefix(err.Error(), key+": ") {
				t.Errorf("%s as %T: %v, want a refusal that names it", key, v, err)
			}
		}
	}
}
