package build

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A kernel is taken only if its hook begins with what a program is attached
// to, as the compiler makes it with the flags of the patch.
func TestCheckHook(t *testing.T) {
	patch, err := os.ReadFile(filepath.Join("..", "kernel.patch"))
	if err != nil {
		t.Fatal(err)
	}
	_, flags, ok := strings.Cut(string(patch), "+CFLAGS_bpf_lsm.o += ")
	if !ok {
		t.Fatal("the patch has no flags for the hooks")
	}
	flags, _, _ = strings.Cut(flags, "\n")
	for name, c := range map[string]struct {
		function string
		flags    []string
		want     string // the error has it; "" for none
	}{
		"hook":          {hook, strings.Fields(flags), ""},
		"marked":        {hook, append(strings.Fields(flags), "-fcf-protection=branch"), ""},
		"no no-op":      {hook, nil, "begins with"},
		"five no-ops":   {hook, []string{"-fpatchable-function-entry=5"}, "begins with 90 90 90 90 90"},
		"another's":     {"bpf_lsm_socket_created", strings.Fields(flags), "there is no " + hook},
		"no such place": {"", []string{"-Wl,--defsym=" + hook + "=0x1000"}, "is in no section"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			source := "void _start(void) {}\n"
			if c.function != "" {
				source += fmt.Sprintf("int %s(int family) { return 0; }\nint zz(int family) { return family + 1; }\n", c.function)
			}
			file := filepath.Join(dir, "hook.c")
			if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
				t.Fatal(err)
			}
			elf := filepath.Join(dir, "vmlinux")
			args := append([]string{"-O2", "-fcf-protection=none", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-o", elf, file}, c.flags...)
			if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
				t.Fatalf("gcc %q: %v: %s", args, err, out)
			}
			err := checkHook(elf)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!errors.Is(err, errHook) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, expected %q", err, c.want)
			}
		})
	}
}
