package crun

import (
	"errors"
	"syscall"
	"testing"
)

// The messages are what Debian's crun 1.8.1 writes with --log-format=json.
func TestTranslate(t *testing.T) {
	line := func(msg string) string {
		return `{"msg":"` + msg + `","level":"error","time":"2026-11-21T05:29:13.000000000Z"}` + "\n"
	}
	for _, test := range []struct {
		name, arg0, log string
		text            string
		errno           syscall.Errno
	}{
		{"podman, containerd and docker match this for 127", "x",
			line("executable file `x` not found in $PATH: No such file or directory"),
			`exec: "x": executable file not found in $PATH`, syscall.ENOENT},
		{"and this", "/x",
			line("executable file `/x` not found in $PATH: No such file or directory"),
			`exec: "/x": stat /x: no such file or directory`, syscall.ENOENT},
		{"relative", "./x", line("executable file `./x` not found in $PATH: No such file or directory"),
			`exec: "./x": stat ./x: no such file or directory`, syscall.ENOENT},
		{"podman, containerd and docker match this for 126", "/x", line("open executable: Permission denied"),
			`exec: "/x": permission denied`, syscall.EACCES},
		{"a folder", "/x", line("open executable: Operation not permitted"),
			`exec: "/x": permission denied`, syscall.EACCES},
		{"not executable in $PATH", "x", line("open executable: Permission denied"),
			`exec: "x": executable file not found in $PATH`, syscall.ENOENT},
		{"an errno of another cause", "x", line("mount `proc` to `/proc`: Device or resource busy"),
			"error during container init: mount `proc` to `/proc`: device or resource busy", syscall.EBUSY},
		{"a cause that mentions PATH", "x", line("open `executable file`: No such file or directory"),
			"error during container init: open `executable file`: no such file or directory", syscall.ENOENT},
		{"no errno", "x", line("the container `c` is not running"), "error during container init: the container `c` is not running", 0},
		{"the last error counts", "x", line("first") + line("second: Permission denied"),
			"error during container init: second: permission denied", syscall.EACCES},
		{"warnings do not", "x", line("first") + `{"msg":"careful","level":"warning"}` + "\n", "error during container init: first", 0},
		{"not JSON", "x", "Segmentation fault\n", "error during container init: Segmentation fault", 0},
		{"nothing", "x", "\n\n", "error during container init: no reason given", 0},
		{"a loop", "/x", line("open executable: Too many levels of symbolic links"),
			`exec: "/x": stat /x: too many levels of symbolic links`, syscall.ELOOP},
		{"below a file", "/x/y", line("open executable: Not a directory"),
			`exec: "/x/y": stat /x/y: not a directory`, syscall.ENOTDIR},
		{"the working folder", "x", line("chdir `/nope`: No such file or directory"),
			`error during container init: chdir to cwd ("/nope") set in config.json failed: no such file or directory`, syscall.ENOENT},
		{"quotes in the name", `a"b`, line("executable file `a\\\"b` not found in $PATH: No such file or directory"),
			`exec: "a\"b": executable file not found in $PATH`, syscall.ENOENT},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := translate("create", test.arg0, []byte(test.log))
			if err.Error() != test.text {
				t.Errorf("text %q, want %q", err, test.text)
			}
			var errno syscall.Errno
			if errors.As(err, &errno); errno != test.errno {
				t.Errorf("errno %v, want %v", errno, test.errno)
			}
		})
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add("x", []byte(`{"msg":"executable file `+"`x`"+` not found in $PATH: x","level":"error"}`))
	f.Fuzz(func(t *testing.T, arg0 string, log []byte) {
		if translate("exec", arg0, log).Error() == "" {
			t.Error("an error without a text")
		}
	})
}
