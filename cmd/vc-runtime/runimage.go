package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units" // docker's own reading of sizes
	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/image"
	"github.com/vc-runtime/vc-runtime/image/store"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers"
	"github.com/vc-runtime/vc-runtime/virtcontainers/bundle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cni"
)

// imageFlags are the flags of run for an image, as docker and podman have them.
func imageFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "the container's `ID` (default: a random one)"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "allocate a terminal"},
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "hand standard input to the container"},
		&cli.BoolFlag{Name: "rm", Usage: "delete a detached container when it ends; others are deleted anyway, unless --keep is given"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set a variable: `NAME=VALUE`, or NAME for the one that vc-runtime has"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "working `DIR`ectory in the container"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `USER[:GROUP]`, names in the image or numbers"},
		&cli.StringFlag{Name: "entrypoint", Usage: "run this `PROGRAM` instead of the image's entry point; empty for none"},
		&cli.StringFlag{Name: "hostname", Usage: "the container's host `NAME` (default: its id)"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "share a file or folder: `HOST-PATH:PATH[:ro]`"},
		&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "make a port reachable on the host: `[[IP:]HOST-PORT:]PORT[/PROTOCOL]`"},
		&cli.StringFlag{Name: "network", Usage: "join the CNI network `NAME`, or none (default: the first one that is configured)"},
		&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "limit of memory, such as 512m"},
		&cli.Float64Flag{Name: "cpus", Usage: "limit of CPUs, such as 1.5"},
		&cli.BoolFlag{Name: "read-only", Usage: "let the container write to its volumes only"},
		&cli.StringSliceFlag{Name: "annotation", Usage: "set an annotation: `NAME=VALUE`"},
		&cli.StringSliceFlag{Name: "storage-opt", Usage: "`size=SIZE`: how much the container can write (default 10g)"},
		&cli.StringFlag{Name: "pull", Value: string(image.Missing), Usage: "fetch the image: `missing`, always or never"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress of a pull"},
	}
}

// defaultUpper is how much a container can write, in bytes: docker's size of a
// container where it has one.
const defaultUpper = 10 << 30

// Exit codes of docker and podman for a container that was not run.
const (
	exitNoContainer  = 125
	exitNotRunnable  = 126
	exitNoExecutable = 127
)

// imageRun is one run of an image.
type imageRun struct {
	p      *program
	rt     verbs
	root   string // of the state store
	id     string
	name   string // in the image store
	images *image.Service
	store  *store.Store
	home   string // folder of the bundles
	config bundle.Config
	run    virtcontainers.RunOptions
	// network is what is joined, nil for none.
	network     *cni.Network
	interactive bool
	// detached is the user's wish; with --rm a keeper stays.
	detached bool
}

// runImage runs a container from an image.
func (p *program) runImage(c *cli.Context, rt verbs) error {
	keeper := isKeeper()
	if c.Bool("rm") && c.Bool("detach") && !keeper {
		return p.keep()
	}
	r, err := p.imageRun(c, rt)
	code := exitNoContainer
	if err == nil {
		if keeper {
			r.run.Detach, r.run.Started = false, func() { tell(keeperOK, r.id) }
		}
		code, err = r.do(c)
	}
	if err == nil {
		return exitWith(code)
	}
	err = fmt.Errorf("%s run failed: %w", name, err)
	if keeper {
		tell(byte(codeOf(err)), oneLine(err.Error())) // in vain if it has run
	}
	return &exitError{code: codeOf(err), err: err}
}

// codeOf tells what kept a container from running, as docker does by its code.
func codeOf(err error) int {
	switch text := err.Error(); {
	case strings.Contains(text, "executable file not found in"), strings.Contains(text, "exec: ") && strings.Contains(text, "no such file or directory"):
		return exitNoExecutable
	case strings.Contains(text, "exec: ") && strings.Contains(text, "permission denied"):
		return exitNotRunnable
	}
	return exitNoContainer
}

// imageRun reads the flags.
func (p *program) imageRun(c *cli.Context, rt verbs) (*imageRun, error) {
	s, err := p.settings(c)
	if err != nil {
		return nil, err
	}
	images, err := image.Open(s.config)
	if err != nil {
		return nil, err
	}
	r := &imageRun{p: p, rt: rt, images: images, store: images.Store, home: bundlesOf(images.Store), id: c.String("name")}
	if r.root, err = rootDir(c.String("root")); err != nil {
		return nil, err
	}
	if r.id == "" {
		r.id = randomID()
	}
	if err := state.ValidateID(r.id); err != nil {
		return nil, err
	}
	r.name = keyOf(r.root, r.id)
	if r.run.CreateOptions, err = p.createOptions(c); err != nil {
		return nil, err
	}
	r.run.ID = r.id
	r.run.Detach, r.run.Keep, r.run.NoSubreaper = c.Bool("detach"), c.Bool("keep"), c.Bool("no-subreaper")
	if r.config.Options, err = imageOptions(c, r.id); err != nil {
		return nil, err
	}
	r.interactive, r.detached = c.Bool("interactive"), c.Bool("detach")
	r.config.User, r.config.Cache = c.String("user"), filepath.Join(images.Store.Root(), "cache")
	if r.config.UpperSize, err = upperSize(c.StringSlice("storage-opt")); err != nil {
		return nil, err
	}
	if r.network, err = networkOf(c); err != nil {
		return nil, err
	}
	return r, nil
}

// randomID is the id of a container that nobody has named.
func randomID() string {
	b := make([]byte, 6)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// keyOf is a container's name in the image store, which containers of all state
// stores share.
func keyOf(root, id string) string {
	if root == defaultRoot {
		return id
	}
	sum := sha256.Sum256([]byte(root))
	return id + "." + hex.EncodeToString(sum[:4])
}

func imageOptions(c *cli.Context, id string) (bundle.Options, error) {
	o := bundle.Options{
		ID: id, Hostname: c.String("hostname"), Args: c.Args().Tail(),
		Workdir: c.String("workdir"), Terminal: c.Bool("tty"), CPUs: c.Float64("cpus"), ReadOnly: c.Bool("read-only"),
		Annotations: make(map[string]string),
	}
	if o.Hostname == "" {
		o.Hostname = id[:min(len(id), maxHostname)]
	}
	if c.IsSet("entrypoint") {
		o.Entrypoint = []string{}
		if program := c.String("entrypoint"); program != "" {
			o.Entrypoint = []string{program}
		}
	}
	for _, v := range c.StringSlice("env") {
		if !strings.Contains(v, "=") {
			value, ok := os.LookupEnv(v)
			if !ok {
				continue // docker: a variable that is not set is left out
			}
			v += "=" + value
		}
		o.Env = append(o.Env, v)
	}
	for _, a := range c.StringSlice("annotation") {
		name, value, ok := strings.Cut(a, "=")
		if !ok || name == "" {
			return o, fmt.Errorf("--annotation %q: expected NAME=VALUE", a)
		}
		o.Annotations[name] = value
	}
	for _, text := range c.StringSlice("volume") {
		v, err := parseVolume(text)
		if err != nil {
			return o, err
		}
		o.Volumes = append(o.Volumes, v)
	}
	if text := c.String("memory"); text != "" {
		var err error
		if o.Memory, err = units.RAMInBytes(text); err != nil || o.Memory <= 0 {
			return o, fmt.Errorf("--memory %q: expected an amount such as 512m", text)
		}
	}
	return o, nil
}

// maxHostname is the longest host name (sethostname(2)).
const maxHostname = 64

// parseVolume reads HOST-PATH:PATH[:ro|:rw].
func parseVolume(text string) (bundle.Volume, error) {
	wrong := fmt.Errorf("--volume %q: expected HOST-PATH:PATH[:ro], both absolute", text)
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || !filepath.IsAbs(parts[0]) || !filepath.IsAbs(parts[1]) {
		return bundle.Volume{}, wrong
	}
	v := bundle.Volume{Source: parts[0], Destination: parts[1]}
	if len(parts) == 3 {
		for _, option := range strings.Split(parts[2], ",") {
			switch option {
			case "ro":
				v.ReadOnly = true
			case "rw", "z", "Z": // labels of SELinux mean nothing in the guest
			default:
				return v, wrong
			}
		}
	}
	return v, nil
}

func upperSize(options []string) (int64, error) {
	size := int64(defaultUpper)
	for _, o := range options {
		text, ok := strings.CutPrefix(o, "size=")
		var err error
		if size, err = units.RAMInBytes(text); !ok || err != nil {
			return 0, fmt.Errorf("--storage-opt %q: expected size=SIZE, such as size=10g", o)
		}
	}
	return size, nil
}

// networkOf gives the network that the flags ask for: by default the first that
// is configured, or none.
func networkOf(c *cli.Context) (*cni.Network, error) {
	var ports []cni.Port
	for _, text := range c.StringSlice("publish") {
		port, err := cni.ParsePort(text)
		if err != nil {
			return nil, fmt.Errorf("--publish: %w", err)
		}
		ports = append(ports, port)
	}
	want := c.String("network")
	switch want {
	case "host":
		return nil, errors.New(`--network host: a virtual machine cannot share the host's network: expected none or a CNI network`)
	case "none":
		if len(ports) > 0 {
			return nil, errors.New("--publish: there are no ports without a network")
		}
		return nil, nil
	case "default", "bridge":
		want = ""
	}
	n, err := cni.Find(cni.DefaultDirs(), want)
	if errors.Is(err, cni.ErrNone) && len(ports) == 0 && !c.IsSet("network") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n.Ports = ports
	return n, nil
}

// do runs the container and gives its exit code.
func (r *imageRun) do(c *cli.Context) (int, error) {
	ctx := c.Context
	if err := sweepBundles(ctx, r.store); err != nil {
		r.p.log.Warn(err) // it is tried again by the next one, and by image gc
	}
	img, lease, err := r.image(c)
	if err != nil {
		return 0, err
	}
	defer lease.Close()
	dir, err := r.claim()
	if err != nil {
		return 0, err
	}
	// Made or not, the container's bundle goes with it: by its poststop hook,
	// or here where there is no container.
	code, err := r.start(ctx, lease, img, dir)
	if err == nil && r.run.Detach {
		fmt.Fprintln(r.p.stdout, r.id)
	}
	if there, _ := known(r.root, r.id); !there {
		err = errors.Join(err, r.release(context.WithoutCancel(ctx), dir))
	}
	return code, err
}

// image gives the image with a lease on it, and fetches it if need be.
func (r *imageRun) image(c *cli.Context) (*store.Image, *store.Lease, error) {
	how := progressAuto
	if c.Bool("quiet") {
		how = progressQuiet
	}
	show, err := newProgress(how, r.p.stderr)
	if err != nil {
		return nil, nil, err
	}
	img, lease, err := r.images.Get(c.Context, c.Args().First(), image.Policy(c.String("pull")), image.PullOptions{Progress: show.event, Warn: show.warn})
	show.end()
	r.p.warn(show.warnings)
	if err != nil && c.NArg() == 1 && !c.IsSet("pull") {
		err = fmt.Errorf("%w (as a container's id: there is no config.json in the current directory, see --bundle)", err)
	}
	return img, lease, err
}

// claim makes the bundle's folder.
func (r *imageRun) claim() (string, error) {
	owner := bundle.Owner{Root: r.root, Container: r.id}
	if r.network != nil {
		r.network.Container = r.name
		owner.Network = r.network
	}
	return bundle.Claim(r.home, r.name, owner)
}

// start pins the image, makes the bundle and runs it. The lease is let go in
// between: from the pin on nothing else needs it.
func (r *imageRun) start(ctx context.Context, lease *store.Lease, img *store.Image, dir string) (int, error) {
	if err := lease.Pin(ctx, r.name, img); err != nil {
		return 0, err
	}
	if err := lease.Close(); err != nil {
		return 0, err
	}
	var err error
	if r.config.Image, err = r.images.ImageConfig(img); err != nil {
		return 0, err
	}
	if r.config.Layers, err = r.layers(ctx, img, dir); err != nil {
		return 0, err
	}
	if r.config.Files, err = r.files(); err != nil {
		return 0, err
	}
	if r.config.Hooks, err = r.hooks(dir); err != nil {
		return 0, err
	}
	if err := r.stdio(dir); err != nil {
		return 0, err
	}
	r.run.Bundle = dir
	if r.run.Image, err = bundle.Make(ctx, dir, r.config); err != nil {
		return 0, err
	}
	return r.rt.Run(ctx, r.run)
}

// stdio gives the container no input that it was not promised, and a detached
// one a file for its output: there is no engine that would keep it.
func (r *imageRun) stdio(dir string) error {
	if !r.interactive && !r.config.Terminal {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		r.run.Stdin = null
	}
	if !r.detached || r.config.Terminal {
		return nil
	}
	output, err := os.OpenFile(filepath.Join(dir, bundle.OutputName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	r.run.Stdout, r.run.Stderr = output, output
	return nil
}

// files are the container's hostname, hosts and, in a network, resolv.conf.
func (r *imageRun) files() (map[string][]byte, error) {
	host := r.config.Hostname
	files := map[string][]byte{
		"hostname": []byte(host + "\n"),
		"hosts":    []byte("127.0.0.1\tlocalhost\n127.0.1.1\t" + host + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
	}
	if r.network != nil {
		text, err := resolvConf()
		if err != nil {
			return nil, err
		}
		files["resolv.conf"] = text
	}
	return files, nil
}

// resolvConfs are the host's resolver configurations: systemd-resolved's knows
// the servers behind its own address, which a container cannot reach.
var resolvConfs = []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"}

// resolvConf is the host's, without name servers on the host's loopback.
func resolvConf() ([]byte, error) {
	for _, path := range resolvConfs {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var out strings.Builder
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 1 && f[0] == "nameserver" && (strings.HasPrefix(f[1], "127.") || f[1] == "::1") {
				continue
			}
			out.WriteString(line)
		}
		return []byte(out.String()), nil
	}
	return nil, nil
}

// release gives back what the container had beside its record.
func (r *imageRun) release(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	return releaseBundle(ctx, r.store, dir)
}

// bundlesOf is the folder of the bundles of containers that are run from images.
func bundlesOf(images *store.Store) string { return filepath.Join(images.Root(), "bundles") }

// sweepBundles gives back what containers had that have gone without it.
func sweepBundles(ctx context.Context, images *store.Store) error {
	return bundle.Sweep(ctx, bundlesOf(images), known, func(name string) error {
		if state.ValidateID(name) != nil {
			return nil // one that was being made: it had no pin
		}
		return images.Unpin(ctx, name)
	})
}

// known reports whether a state store has a container. What cannot be told is a
// yes.
func known(root, id string) (bool, error) {
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	s, err := state.Open(root)
	if err != nil {
		return true, err
	}
	_, err = s.Container(id)
	return !errors.Is(err, state.ErrNotExist), nil
}
