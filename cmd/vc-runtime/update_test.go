package main

import (
	"os"
	"reflect"
	"testing"
)

// TestUpdateFromStdin: CRI-O and containerd write the limits into the command's
// stdin.
func TestUpdateFromStdin(t *testing.T) {
	for _, flag := range [][]string{{"--resources", "-"}, {"--resources=-"}, {"-r", "-"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(`{"memory":{"limit":7}}` + "\n"); err != nil {
			t.Fatal(err)
		}
		rt := &fake{stdin: r}
		out := execute(t, rt, append(append([]string{"update"}, flag...), "ID")...)
		if want := []any{updateCall{"ID", `{"memory":{"limit":7}}`}}; out.code != 0 || !reflect.DeepEqual(rt.calls, want) {
			t.Errorf("%q: %+v, calls %+v", flag, out, rt.calls)
		}
		w.Close() // nobody waits for the end
		r.Close()
	}
}

func TestEventsPrintsLines(t *testing.T) {
	out := execute(t, &fake{}, "events", "ID")
	if out.code != 0 || out.stdout != `{"type":"oom","id":"ID"}`+"\n" {
		t.Errorf("%+v", out)
	}
}
