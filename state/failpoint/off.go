//go:build !failpoints

package failpoint

// Enabled reports whether this program has failpoints.
const Enabled = false

// Here is a failpoint. It gives nil, but where a test says otherwise.
func Here(Name) error { return nil }

// Trace writes a line to the trace, where there is one.
func Trace(string, string) {}

// Environ is what a program of ours hands on to another one.
func Environ() []string { return []string{} }
