package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/stats"
)

const (
	// name is the program's in every text.
	name = "vc-runtime"
	// defaultRoot holds the containers' records, without --root.
	defaultRoot = "/run/vc-runtime"
)

// What the program exits with, beside a process's own code.
const (
	exitFailure     = 1
	exitNoTopic     = 3   // there is no such command; runc's code
	exitExecFailure = 255 // exec has not run its process; runc's code
)

// verbs is what the commands need of the runtime: virtcontainers.Runtime.
type verbs interface {
	Create(ctx context.Context, o virtcontainers.CreateOptions) error
	Start(ctx context.Context, id string) error
	Kill(ctx context.Context, id string, s unix.Signal, all bool) error
	State(ctx context.Context, id string) (*virtcontainers.State, error)
	List(ctx context.Context) ([]virtcontainers.State, error)
	Delete(ctx context.Context, id string, force bool) error
	Doctor(ctx context.Context, fix bool) ([]virtcontainers.Orphan, error)
	Spares() ([]virtcontainers.Spare, error)
	FillSpares(ctx context.Context) error
	EndSpares(ctx context.Context) error
	Run(ctx context.Context, o virtcontainers.RunOptions) (int, error)
	Exec(ctx context.Context, o virtcontainers.ExecOptions) (int, error)
	Process(ctx context.Context, id string) (*specs.Process, error)
	Processes(ctx context.Context, id string) ([]int, error)
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Update(ctx context.Context, id string, resources []byte) error
	Stats(ctx context.Context, id string) (*stats.Stats, error)
	Events(ctx context.Context, id string, interval time.Duration, each func(stats.Event) error) error
}

// settings are the global flags that the runtime needs.
type settings struct {
	root   string        // absolute; holds the containers' records
	config string        // configuration file; "" for the default one
	onTerm config.OnTerm // in place of the configuration's; "" for that
}

// program is one run of the command line. Tests give it files and a runtime of
// their own.
type program struct {
	stdin, stdout, stderr *os.File

	euid int // who runs it
	open func(*program, settings) (verbs, error)
	// templates opens the templates of a configuration.
	templates func(settings) (templates, error)

	// journal reports whether stderr is a stream of the journal's; nil: it is not.
	journal func() (bool, error)

	command string // its name, once it runs
	log     *logrus.Logger
	logFile *os.File // of --log; nil where the log goes to stderr
}

// run executes the command line, args[0] being the program, and gives the exit
// code. A failure is one line in the log, and one on stderr.
func (p *program) run(args []string) int {
	p.log = newLogger(p.stderr)
	defer p.closeLog()
	app := p.app()
	return p.report(app.Run(flagsFirst(app, args)))
}

// report writes the failure down and gives the exit code.
func (p *program) report(err error) int {
	if err == nil {
		return 0
	}
	code := exitFailure
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	if text := oneLine(err.Error()); text != "" {
		p.log.Error(text)
		if p.logFile != nil {
			fmt.Fprintln(p.stderr, text)
		}
	}
	return code
}

// exitError ends the program with another code than exitFailure. It is not the
// library's type, which an exec.ExitError looks like: a failed hook's code must
// not become ours.
type exitError struct {
	code int
	err  error // nil: end without a word
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitWith ends the program with a process's own code, silently.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

func (p *program) app() *cli.App {
	app := cli.NewApp()
	app.Name = name
	app.HelpName = name
	app.Usage = "run OCI containers in virtual machines"
	app.Description = description
	app.Version = versionText()
	app.Reader = p.stdin
	app.Writer = tolerant{p.stdout}
	app.ErrWriter = p.stderr
	app.DisableSliceFlagSeparator = true // an environment variable may have commas
	app.ExitErrHandler = func(*cli.Context, error) {}
	app.Flags = globalFlags()
	app.Before = p.before
	app.Action = noCommand
	app.Commands = []*cli.Command{
		p.createCommand(), p.deleteCommand(), p.doctorCommand(), p.eventsCommand(), p.execCommand(),
		p.featuresCommand(), p.imageCommand(), p.killCommand(), p.listCommand(), p.pauseCommand(),
		p.psCommand(), p.resumeCommand(), p.runCommand(), p.spareCommand(), p.specCommand(),
		p.startCommand(), p.stateCommand(), p.templateCommand(), p.traceCommand(),
		p.updateCommand(),
	}
	for _, c := range app.Commands {
		c.HideHelpCommand = true // a container may be called help
	}
	return app
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "debug", Usage: "enable debug logging"},
		&cli.StringFlag{Name: "log", Usage: "set the log file to write logs to (default is '/dev/stderr')"},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "set the log format ('text' (default), or 'json')"},
		&cli.StringFlag{Name: "root", Value: defaultRoot, Usage: "root directory for storage of container state (this should be located in tmpfs)"},
		&cli.StringFlag{Name: "config", Usage: "configuration file"},
		&cli.StringFlag{Name: "on-term", Usage: "what kill with TERM does, 'stop' or 'signal', in place of the configuration's runtime.on_term"},
		&cli.StringFlag{Name: "trace", Usage: "append a trace of where the time goes to `FILE`, for Perfetto and \"trace summary\""},
		&cli.StringFlag{Name: "criu", Usage: "ignored: there is no checkpoint and restore", Hidden: true},
		&cli.BoolFlag{Name: "systemd-cgroup", Usage: `enable systemd cgroup support, expects cgroupsPath to be of form "slice:prefix:name" for e.g. "system.slice:runc:434234"`},
		&cli.StringFlag{Name: "rootless", Value: "auto", Usage: "accepted for runc's sake: 'auto' and 'false' say the same, 'true' is refused"},
	}
}

// before checks the global flags, before any command runs.
func (p *program) before(c *cli.Context) error {
	if err := p.openLog(c.String("log"), c.String("log-format"), c.Bool("debug")); err != nil {
		return err
	}
	return checkRootless(c.String("rootless"))
}

func checkRootless(value string) error {
	if value == "" || strings.EqualFold(value, "auto") {
		return nil
	}
	rootless, err := strconv.ParseBool(value)
	switch {
	case err != nil:
		return fmt.Errorf("invalid --rootless %q: want 'true', 'false' or 'auto'", value)
	case rootless:
		return errors.New("rootless containers are not supported")
	}
	return nil
}

// noCommand is what happens without a command, or with an unknown one.
func noCommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	//lint:ignore ST1005 runc's text
	err := fmt.Errorf("No help topic for '%s'", c.Args().First())
	return &exitError{code: exitNoTopic, err: err}
}

// noSubcommand is what happens without a sub-command, or with an unknown one.
func noSubcommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowSubcommandHelp(c)
	}
	return fmt.Errorf("%s %s: unknown sub-command %q", name, c.Command.Name, c.Args().First())
}

// with makes an action of what a command does with the runtime.
func (p *program) with(do func(*cli.Context, verbs) error) cli.ActionFunc {
	return traced(p, p.runtime, do)
}

// traced makes an action of what a command does with what it opens: the trace, where
// one is asked for, has all of it.
func traced[T any](p *program, open func(*cli.Context) (T, error), do func(*cli.Context, T) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		opened, err := open(c)
		if err != nil {
			return err
		}
		stop, err := p.trace(c)
		if err != nil {
			return err
		}
		defer stop()
		return do(c, opened)
	}
}

// runtime opens the runtime of the global flags.
func (p *program) runtime(c *cli.Context) (verbs, error) {
	s, err := p.settings(c)
	if err != nil {
		return nil, err
	}
	p.command = c.Command.Name
	return p.open(p, s)
}

// settings reads the global flags.
func (p *program) settings(c *cli.Context) (settings, error) {
	if p.euid != 0 {
		return settings{}, errors.New(name + ": must be run as root (it opens /dev/kvm and network devices, and mounts)")
	}
	onTerm := config.OnTerm(c.String("on-term"))
	if c.IsSet("on-term") && onTerm != config.OnTermStop && onTerm != config.OnTermSignal {
		return settings{}, fmt.Errorf("invalid --on-term %q: expected %q or %q", onTerm, config.OnTermStop, config.OnTermSignal)
	}
	root, err := rootDir(c.String("root"))
	return settings{root: root, config: c.String("config"), onTerm: onTerm}, err
}

// rootDir makes --root absolute. Like runc it refuses the root folder, which
// is what an unset variable in a caller's script can come to.
func rootDir(path string) (string, error) {
	if path == "" {
		return "", errors.New("option --root must not be empty")
	}
	root, err := absolute("root", path)
	if err != nil {
		return "", err
	}
	if root == "/" {
		return "", errors.New("option --root must not be /")
	}
	return root, nil
}

// absolute makes the path of a flag absolute; "" stays.
func absolute(flag, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("make --%s absolute: %w", flag, err)
	}
	return abs, nil
}

// tolerant takes a descriptor that cannot be written to, such as a closed one,
// for one that nobody reads: containerd gives /dev/null opened for reading.
type tolerant struct{ io.Writer }

func (w tolerant) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if errors.Is(err, unix.EBADF) {
		return len(b), nil
	}
	return n, err
}

// oneLine makes one line of a text, because callers read line by line. Control
// characters are taken out: an error may quote a guest, and a terminal would
// obey it.
func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.Map(func(r rune) rune {
			switch {
			case r == '\t':
				return ' '
			case unicode.IsControl(r):
				return -1
			}
			return r
		}, line)
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

const description = `vc-runtime has the command line of runc, the container runtime of the Open
Container Initiative, and runs each container, or pod, in a virtual machine of
its own.

Containers are configured using bundles. A bundle for a container is a directory
that includes a specification file named "config.json" and a root filesystem.
The root filesystem contains the contents of the container.

To start a new instance of a container:

    # vc-runtime run [ -b bundle ] <container-id>

Where "<container-id>" is your name for the instance of the container that you
are starting. The name you provide for the container instance must be unique on
your host. Providing the bundle directory using "-b" is optional. The default
value for "bundle" is the current directory.`
