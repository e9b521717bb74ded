package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// execProcess makes the process of exec: that of --process, or the container's
// own with the command and the flags on top. Whether it is complete and
// possible is for the runtime to say.
func (p *program) execProcess(c *cli.Context, rt verbs) (*specs.Process, error) {
	process, err := readOrMerge(c, rt)
	if err != nil {
		return nil, err
	}
	// In the foreground the terminal is ours: let the process begin with its
	// size.
	if process.Terminal && process.ConsoleSize == nil && !c.Bool("detach") {
		process.ConsoleSize = windowSize(p.stdin)
	}
	return process, nil
}

// windowSize is the size of a terminal in characters, nil where f is none.
func windowSize(f *os.File) *specs.Box {
	raw, err := f.SyscallConn() // Fd would make a pipe that is shared with others blocking
	if err != nil {
		return nil
	}
	var size *specs.Box
	raw.Control(func(fd uintptr) {
		ws, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ)
		if err == nil && ws.Col > 0 && ws.Row > 0 {
			size = &specs.Box{Width: uint(ws.Col), Height: uint(ws.Row)}
		}
	})
	return size
}

func readOrMerge(c *cli.Context, rt verbs) (*specs.Process, error) {
	if path := c.String("process"); path != "" {
		return readProcess(path)
	}
	process, err := rt.Process(c.Context, c.Args().First())
	if err != nil {
		return nil, err
	}
	if c.NArg() == 1 {
		return nil, errors.New("process args cannot be empty") // runc's text
	}
	process.Args = c.Args().Tail()
	return process, applyFlags(c, process)
}

// readProcess reads the file of --process. Unknown properties are ignored, as
// runc does.
func readProcess(path string) (*specs.Process, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var process *specs.Process
	if err := json.Unmarshal(data, &process); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if process == nil {
		return nil, errors.New("process property must not be empty") // runc's text
	}
	return process, nil
}

// applyFlags does what the flags of exec say to the container's process.
func applyFlags(c *cli.Context, process *specs.Process) error {
	if cwd := c.String("cwd"); cwd != "" {
		process.Cwd = cwd
	}
	if profile := c.String("apparmor"); profile != "" {
		process.ApparmorProfile = profile
	}
	if label := c.String("process-label"); label != "" {
		process.SelinuxLabel = label
	}
	process.Env = append(process.Env, c.StringSlice("env")...)
	// Never the container's: exec has a terminal when it is asked for one.
	process.Terminal = c.Bool("tty")
	process.ConsoleSize = nil
	if c.IsSet("no-new-privs") {
		process.NoNewPrivileges = c.Bool("no-new-privs")
	}
	addCapabilities(process, c.StringSlice("cap"))
	if err := setUser(&process.User, c.String("user")); err != nil {
		return err
	}
	for _, text := range c.StringSlice("additional-gids") {
		gid, err := parseNumber("additional gid", text)
		if err != nil {
			return err
		}
		process.User.AdditionalGids = append(process.User.AdditionalGids, gid)
	}
	return nil
}

// addCapabilities adds names as runc since 1.1.2 does: never to the inheritable
// set (CVE-2022-29162), and so to the ambient one only where the container has
// it inheritable already (capabilities(7) asks for that).
func addCapabilities(process *specs.Process, names []string) {
	if len(names) == 0 {
		return
	}
	if process.Capabilities == nil {
		process.Capabilities = new(specs.LinuxCapabilities)
	}
	caps := process.Capabilities
	for _, name := range names {
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
			*set = addOnce(*set, name)
		}
		if slices.Contains(caps.Inheritable, name) {
			caps.Ambient = addOnce(caps.Ambient, name)
		}
	}
}

func addOnce(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// setUser reads UID[:GID]; "" leaves the user as it is.
func setUser(user *specs.User, text string) error {
	if text == "" {
		return nil
	}
	uidText, gidText, hasGID := strings.Cut(text, ":")
	uid, err := parseNumber("uid", uidText)
	if err != nil {
		return err
	}
	user.UID = uid
	if !hasGID {
		return nil
	}
	user.GID, err = parseNumber("gid", gidText)
	return err
}

// parseNumber reads a user or group id.
func parseNumber(what, text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s %q: not a number from 0 to %d", what, text, ^uint32(0))
	}
	return uint32(n), nil
}
