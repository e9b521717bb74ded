package build

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// lastLines is how many lines of a tool's output its error shows.
const lastLines = 5

// command is a tool that the builder runs.
type command struct {
	args  []string
	dir   string   // "" is the current one
	env   []string // besides the builder's own
	stdin []byte
}

// run runs the tool and gives its standard output. An error has the end of
// what the tool said.
func (c command) run(ctx context.Context) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C", "SOURCE_DATE_EPOCH=0"), c.env...)
	cmd.Stdin = bytes.NewReader(c.stdin)
	cmd.Stdout = &stdout
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w%s", strings.Join(c.args, " "), err, tail(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// tail is the end of a tool's output, to be put after an error.
func tail(out string) string {
	out = strings.TrimSpace(out)
	if out == "" {
		return ""
	}
	lines := strings.Split(out, "\n")
	if len(lines) > lastLines {
		lines = lines[len(lines)-lastLines:]
	}
	return ":\n\t" + strings.Join(lines, "\n\t")
}
