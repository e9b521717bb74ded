package main

import (
	"context"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/guest"
	"github.com/vc-runtime/vc-runtime/agent/server"
)

// rehearsalTime bounds a rehearsal, which takes a second under emulation.
const rehearsalTime = 30 * time.Second

// rehearse lets a server like the real one run a container.
func rehearse(ctx context.Context, cfg server.Config, program string) error {
	ctx, cancel := context.WithTimeout(ctx, rehearsalTime)
	defer cancel()
	cfg.Shares = guest.Stage{Program: program}
	return server.New(cfg).Rehearse(ctx, "stage", []byte(api.RehearsedSpec))
}
