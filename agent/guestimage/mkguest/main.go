// Command mkguest makes the guest image out of the agent; see package
// guestimage/build. "make guest" runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/agent/guestimage/build"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkguest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var cfg build.Config
	flags := flag.NewFlagSet("mkguest", flag.ExitOnError)
	flags.StringVar(&cfg.Agent, "agent", "build/vc-agent", "the agent's static `executable`")
	flags.StringVar(&cfg.AgentVersion, "agent-version", "unknown", "its `version`, for the manifest")
	flags.StringVar(&cfg.Cache, "cache", "build/cache", "`folder` of what is kept between builds")
	flags.StringVar(&cfg.Out, "out", "build/guest", "`folder` of the image")
	flags.BoolVar(&cfg.Refresh, "refresh", false, "look for newer Debian packages than the cached ones")
	flags.StringVar(&cfg.KernelConfig, "kernel-config", "", "`file` to configure a kernel with that is built from Debian's source; \"\" takes Debian's own kernel")
	flags.StringVar(&cfg.KernelPatch, "kernel-patch", "", "`file` to patch that source with; \"\" for none")
	checkOnly := flags.Bool("check-static", false, "only check that the agent can run in the guest")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if *checkOnly {
		return build.CheckStatic(cfg.Agent)
	}
	log := logrus.New()
	log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true})
	m, err := build.Build(ctx, log, cfg)
	if err != nil {
		return err
	}
	fmt.Printf("%s: image %s: kernel %s, agent %s, crun %s, initrd %.1f MB\n",
		cfg.Out, m.ImageID, m.Kernel.Version, m.Agent.Version, m.Crun.Version, float64(m.Initrd.Size)/1e6)
	return nil
}
