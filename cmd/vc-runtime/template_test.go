package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor/sandbox"
)

// fakeTemplates write down how they are called.
type fakeTemplates struct {
	calls []string
	err   error
	all   []sandbox.TemplateInfo
}

func (f *fakeTemplates) note(call string) error { f.calls = append(f.calls, call); return f.err }

func (f *fakeTemplates) Create(context.Context) (string, bool, error) {
	return "k1", true, f.note("create")
}
func (f *fakeTemplates) List() ([]sandbox.TemplateInfo, error) { return f.all, f.note("ls") }
func (f *fakeTemplates) Remove(_ context.Context, key string) error {
	return f.note("rm " + key)
}
func (f *fakeTemplates) Collect(context.Context) ([]string, error) {
	return []string{"k2", "k3"}, f.note("gc")
}

// runTemplate runs `template args...` and gives exit code, stdout and stderr.
func runTemplate(t *testing.T, euid int, f *fakeTemplates, args ...string) (int, string, string) {
	t.Helper()
	dir := t.TempDir()
	var files [3]*os.File
	for i, name := range []string{"in", "out", "err"} {
		var err error
		if files[i], err = os.Create(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { files[i].Close() })
	}
	p := &program{stdin: files[0], stdout: files[1], stderr: files[2], euid: euid,
		templates: func(settings) (templates, error) { return f, nil }}
	code := p.run(append([]string{"vc-runtime", "template"}, args...))
	return code, read(t, files[1].Name()), read(t, files[2].Name())
}

func TestTemplate(t *testing.T) {
	for _, c := range []struct {
		args  []string
		calls []string
		out   string
	}{
		{[]string{"create"}, []string{"create"}, "k1\n"},
		{[]string{"rm", "a", "b"}, []string{"rm a", "rm b"}, ""},
		{[]string{"gc"}, []string{"gc"}, "k2\nk3\n"},
	} {
		f := &fakeTemplates{}
		code, out, stderr := runTemplate(t, 0, f, c.args...)
		if code != 0 || out != c.out || stderr != "" || !reflect.DeepEqual(f.calls, c.calls) {
			t.Errorf("%q: code %d, %q, %q, calls %q", c.args, code, out, stderr, f.calls)
		}
		if code, _, stderr := runTemplate(t, 0, &fakeTemplates{err: errors.New("broken")}, c.args...); code != 1 || !strings.Contains(stderr, "broken") {
			t.Errorf("%q: code %d, %q", c.args, code, stderr)
		}
		f = &fakeTemplates{}
		if code, _, stderr := runTemplate(t, 1000, f, c.args...); code != 1 || !strings.Contains(stderr, "must be run as root") || f.calls != nil {
			t.Errorf("%q without rights: code %d, %q", c.args, code, stderr)
		}
	}
	for _, args := range [][]string{{"create", "x"}, {"rm"}, {"gc", "x"}, {"ls", "x"}, {"bogus"}, {"ls", "-f", "xml"}} {
		f := &fakeTemplates{}
		if code, _, _ := runTemplate(t, 0, f, args...); code != 1 || f.calls != nil {
			t.Errorf("%q: code %d, calls %q", args, code, f.calls)
		}
	}
}

func TestTemplateList(t *testing.T) {
	now := time.Now()
	f := &fakeTemplates{all: []sandbox.TemplateInfo{
		{Key: "aa", Created: now.Add(-2 * time.Hour), Used: now.Add(-time.Minute), Size: 3 << 20, InUse: true, Memory: 256 << 20, CPUs: 1, Accel: "tcg"},
		{Key: "bb", Used: now, Useless: "damaged"},
	}}
	var b strings.Builder
	if err := templateTable(&b, f.all, now); err != nil {
		t.Fatal(err)
	}
	want := `KEY   AGE      USED       SIZE      MACHINE               STATE
aa    2h0m0s   1m0s ago   3.0 MiB   256 MiB, 1 CPU, tcg   in use
bb    ?        0s ago     0.0 MiB   0 MiB, 0 CPU,         damaged
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
	_, out, _ := runTemplate(t, 0, f, "ls", "--format", "json")
	var got []sandbox.TemplateInfo
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != 2 || got[0].Key != "aa" || !got[0].InUse {
		t.Errorf("%v: %s", err, out)
	}
}
