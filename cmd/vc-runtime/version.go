package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Set by the build: -ldflags "-X main.version=… -X main.commit=…".
var (
	version = "0.0.0-dev"
	commit  = ""
)

// versionText is what follows "vc-runtime version": docker and CRI-O read the
// lines.
func versionText() string {
	return fmt.Sprintf("%s\ncommit: %s\nspec: %s\ngo: %s", version, commitText(), specs.Version, runtime.Version())
}

// commitText is the commit that the program was built from, where it is known.
func commitText() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
