package registry

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/vc-runtime/vc-runtime/image/ref"
)

// dockerHubKey is what docker writes the credentials of docker.io under.
const dockerHubKey = "https://index.docker.io/v1/"

// authFiles are the files with credentials, best first: those of podman
// (containers-auth.json(5)), then docker's.
func authFiles(named string) []string {
	if named != "" {
		return []string{named}
	}
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		return []string{file}
	}
	run := os.Getenv("XDG_RUNTIME_DIR")
	if run == "" {
		run = filepath.Join("/run/containers", strconv.Itoa(os.Geteuid()))
	} else {
		run = filepath.Join(run, "containers")
	}
	files := []string{filepath.Join(run, "auth.json")}
	home, err := os.UserHomeDir()
	if err != nil {
		return files
	}
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(home, ".config")
	}
	docker := os.Getenv("DOCKER_CONFIG")
	if docker == "" {
		docker = filepath.Join(home, ".docker")
	}
	return append(files, filepath.Join(config, "containers/auth.json"), filepath.Join(docker, "config.json"))
}

// credentials finds what to present to one host. Those of the command line are
// for the registry itself and never for a mirror.
func (c *Client) credentials(h host, r ref.Reference) auth.CredentialFunc {
	return func(ctx context.Context, hostport string) (auth.Credential, error) {
		if hostport != h.base.Host {
			return auth.EmptyCredential, nil
		}
		if c.opts.Username != "" && !h.mirror {
			return auth.Credential{Username: c.opts.Username, Password: c.opts.Password}, nil
		}
		repository := r.Repository
		if h.mirror {
			repository = ""
		}
		for _, file := range authFiles(c.opts.AuthFile) {
			cred, err := credentialOf(ctx, file, hostport, repository)
			if err != nil || cred != auth.EmptyCredential {
				return cred, err
			}
		}
		return auth.EmptyCredential, nil
	}
}

// credentialOf looks into one file: for the repository, for the folders that it
// lies in (podman's keys), then for the host, where docker's helpers count, too.
func credentialOf(ctx context.Context, file, host, repository string) (auth.Credential, error) {
	store, err := credentials.NewStore(file, credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("credentials: %w", err)
	}
	names := []string{host}
	if host == dockerHub {
		names = []string{"docker.io", dockerHubKey}
	}
	if repository != "" {
		plain, err := credentials.NewFileStore(file)
		if err != nil {
			return auth.EmptyCredential, fmt.Errorf("credentials: %w", err)
		}
		for name := names[0] + "/" + repository; strings.Contains(name, "/"); name = name[:strings.LastIndexByte(name, '/')] {
			cred, err := plain.Get(ctx, name)
			if err != nil || cred != auth.EmptyCredential {
				return cred, err
			}
		}
	}
	for _, name := range names {
		cred, err := store.Get(ctx, name)
		if err != nil {
			return auth.EmptyCredential, fmt.Errorf("credentials for %s in %s: %w", name, file, err)
		}
		if cred != auth.EmptyCredential {
			return cred, nil
		}
	}
	return auth.EmptyCredential, nil
}
