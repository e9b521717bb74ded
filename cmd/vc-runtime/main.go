// Command vc-runtime is an OCI runtime with runc's command line that runs each
// container, or pod, in a virtual machine. Here are the commands, one a file:
// flags, one call of the runtime, an exit code.
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor/sandbox"
	"github.com/vc-runtime/vc-runtime/virtcontainers/shim"
)

// The main goroutine keeps the main thread, which a shim needs: only in here
// can that be had (runtime.LockOSThread).
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) < 2 || os.Args[1] != "shim" {
		runtime.UnlockOSThread()
	}
	if len(os.Args) > 1 {
		// The runtime's own processes: they never see the command line below.
		switch os.Args[1] {
		case "monitor":
			os.Exit(sandbox.Main(sandbox.Boot))
		case virtcontainers.SparesCommand:
			os.Exit(virtcontainers.SparesMain())
		case "shim":
			os.Exit(shim.Main())
		case imageHook:
			os.Exit(imageHookMain(os.Args[2:], os.Stdin, os.Stderr))
		}
	}
	p := &program{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		euid:   os.Geteuid(),
		open:   openRuntime,

		templates: openTemplates,
		journal:   journal.StderrIsJournalStream,
	}
	os.Exit(p.run(os.Args))
}

// withoutConfig are the commands that a broken configuration does not keep from
// their work: they are about containers that were made with a good one, which
// their monitors still have, and there must be a way to end those.
var withoutConfig = []string{"state", "list", "ps", "kill", "delete", "doctor"}

// openRuntime is the runtime that the commands use.
func openRuntime(p *program, s settings) (verbs, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the runtime's own executable: %w", err)
	}
	cfg, err := config.Load(s.config)
	if err != nil && !slices.Contains(withoutConfig, p.command) {
		return nil, err
	}
	if err != nil {
		p.log.WithError(err).Warn("go on with the defaults")
		cfg = config.Default()
	}
	if s.onTerm != "" {
		cfg.Runtime.OnTerm = s.onTerm
	}
	store, err := state.Open(s.root)
	if err != nil {
		return nil, err
	}
	return &virtcontainers.Runtime{
		Store:  store,
		Config: cfg,
		Log:    p.log,
		Exe:    exe,
		Stderr: p.stderr,

		NotifySocket: os.Getenv("NOTIFY_SOCKET"),
	}, nil
}

// openTemplates are the templates that the template command looks after.
func openTemplates(s settings) (templates, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the runtime's own executable: %w", err)
	}
	cfg, err := config.Load(s.config)
	if err != nil {
		return nil, err
	}
	return sandbox.NewTemplates(cfg, s.root, exe), nil
}
