package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/network"
)

// networkTimeout caps the removal of what was made in a network namespace.
const networkTimeout = 10 * time.Second

// networker joins the VM to the network.
type networker interface {
	// sync takes the pid of the shim that is in the namespace, and the number of
	// the machine's CPUs.
	sync(ctx context.Context, m *Machine, shim, cpus int) error
	// leave lets go of a namespace without interfaces; one that has some is an
	// error, since a machine cannot be taken away from them.
	leave() error
	close() error
}

// attachment joins the VM to the network namespace of the sandbox's first
// container, which the others share.
type attachment struct {
	// turn has room for whoever uses what follows, one at a time. It is no mutex,
	// as sync waits for the guest.
	turn chan struct{}
	at   *network.Attachment
	ns   namespaceID // of at
	// forwarder is nil until a is attached, where forwards is not set, and
	// where the kernel cannot forward.
	forwarder *network.Forwarder
	logged    map[network.Endpoint]bool
	// resolver is nil where no DNS server listens in the namespace.
	resolver *network.Resolver

	// forwards has connections to the namespace's localhost reach the guest:
	// in one that the caller made, and may dial in.
	forwards bool
	config   config.Network
	log      *logrus.Entry
	limit    time.Duration // for a connection to the guest
}

// namespaceID tells one namespace from another while it lives (namespaces(7)).
type namespaceID struct{ dev, ino uint64 }

func idOf(ns *os.File) (namespaceID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return namespaceID{}, fmt.Errorf("network namespace: %w", err)
	}
	return namespaceID{st.Dev, st.Ino}, nil
}

// sync makes the VM's interfaces those of the namespace that the shim is in.
// Callers wire interfaces before create, or between create and start: it is
// called at both, and complete before the process runs.
func (a *attachment) sync(ctx context.Context, m *Machine, shim, cpus int) error {
	defer trace.Begin(ctx, trace.Phase, "network").End()
	if err := a.begin(ctx); err != nil {
		return err
	}
	defer a.end()
	if err := a.enter(ctx, m, shim, cpus); err != nil {
		return err
	}
	if err := a.at.Sync(ctx, m.VM, m.Guest); err != nil {
		return fmt.Errorf("attach the network to the VM: %w", err)
	}
	a.logEndpoints()
	if err := a.resolve(ctx, m.Guest, shim); err != nil {
		a.log.WithError(err).Warn("the DNS server of the container's network does not answer the guest")
	}
	return nil
}

// begin waits for the turn, until ctx ends.
func (a *attachment) begin(ctx context.Context) error {
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another change of the interfaces: %w", context.Cause(ctx))
	}
}

func (a *attachment) end() { <-a.turn }

// resolve has the guest reach the DNS server that listens in the namespace, where
// there is one: docker starts it once its interfaces are wired. It is called in
// one's turn.
func (a *attachment) resolve(ctx context.Context, guest Guest, shim int) error {
	if a.resolver != nil {
		return nil
	}
	if err := failpoint.Here(failpoint.MonitorResolver); err != nil {
		return err
	}
	ns, err := openNamespace(shim)
	if err != nil {
		return err
	}
	defer ns.Close()
	if has, err := network.HasResolver(ns); !has || err != nil {
		return err
	}
	stream, err := a.queries(ctx, guest)
	if err != nil {
		return err
	}
	if a.resolver, err = network.Resolve(ns, stream); err != nil {
		stream.Close()
	}
	return err
}

// queries gives the stream of what is asked in the guest.
func (a *attachment) queries(ctx context.Context, guest Guest) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	return guest.Resolver(ctx)
}

// dial connects to a port on the guest's localhost.
func (a *attachment) dial(ctx context.Context, guest Guest, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	return guest.Forward(ctx, port)
}

// openNamespace opens the network namespace that the shim is in.
func openNamespace(shim int) (*os.File, error) {
	ns, err := os.Open("/proc/" + strconv.Itoa(shim) + "/ns/net")
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return ns, nil
}

// enter attaches to the namespace that the shim is in. All containers of a
// sandbox must be in one: they share the VM's network. It is called in one's turn.
func (a *attachment) enter(ctx context.Context, m *Machine, shim, cpus int) error {
	ns, err := openNamespace(shim)
	if err != nil {
		return err
	}
	defer ns.Close()
	id, err := idOf(ns)
	if err != nil {
		return err
	}
	if a.at != nil {
		if id != a.ns {
			return errors.New("the container is in another network namespace than its pod: " +
				"the containers of one virtual machine share its network")
		}
		return nil
	}
	if err := notOurs(id); err != nil {
		return err
	}
	if a.at, err = network.Attach(ctx, ns, a.options(cpus)); err != nil {
		return fmt.Errorf("attach to the network: %w", err)
	}
	a.ns = id
	if a.forwards {
		a.forward(ns, m.Guest)
	}
	return nil
}

// options are the configuration's for a machine of so many CPUs: each has a queue
// of its own, as far as there may be that many.
func (a *attachment) options(cpus int) network.Options {
	return network.Options{
		Mode:   network.Mode(a.config.Mode),
		Queues: max(1, min(cpus, a.config.Queues)),
		Vhost:  a.config.Vhost == config.VhostAuto,
	}
}

// logEndpoints says what the packets go through, once for each interface. It is
// called in one's turn.
func (a *attachment) logEndpoints() {
	fields := logrus.Fields{}
	if err := network.CheckVhost(); a.config.Vhost == config.VhostAuto && err != nil {
		fields["no_vhost"] = err
	}
	if a.logged == nil {
		a.logged = make(map[network.Endpoint]bool)
	}
	for _, e := range a.at.Endpoints() {
		if a.logged[e] {
			continue
		}
		a.logged[e] = true
		a.log.WithFields(fields).WithFields(logrus.Fields{
			"interface": e.Name, "mode": e.Mode, "queues": e.Queues, "vhost": e.Vhost,
		}).Info("interface is connected")
	}
}

// forward has connections to the namespace's localhost reach the guest. A
// container runs without that, too.
func (a *attachment) forward(ns *os.File, guest Guest) {
	var f *network.Forwarder
	err := failpoint.Here(failpoint.MonitorForward)
	if err == nil {
		f, err = network.Forward(ns, func(ctx context.Context, port uint16) (net.Conn, error) {
			return a.dial(ctx, guest, port)
		})
	}
	if err != nil {
		a.log.WithError(err).Warn("no port forwarding from localhost")
		return
	}
	a.forwarder = f
}

// notOurs makes sure that a namespace is not the host's, whose interfaces would
// be taken away from it.
func notOurs(id namespaceID) error {
	ns, err := os.Open("/proc/thread-self/ns/net") // the main thread may have gone elsewhere, for good
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	own, err := idOf(ns)
	if err == nil && own == id {
		err = errors.New("the container is in the host's network namespace: refused")
	}
	return err
}

func (a *attachment) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), networkTimeout)
	defer cancel()
	if err := a.begin(ctx); err != nil {
		return err
	}
	defer a.end()
	if a.at != nil && a.at.Connected() {
		return errors.New("the machine has interfaces in the container's own network namespace")
	}
	if err := a.undo(ctx); err != nil {
		return err
	}
	a.at = nil
	return nil
}

// close takes back what was made in the namespace.
func (a *attachment) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), networkTimeout)
	defer cancel()
	if err := a.begin(ctx); err != nil {
		return err
	}
	defer a.end()
	return a.undo(ctx)
}

// undo is close, in one's turn.
func (a *attachment) undo(ctx context.Context) error {
	if a.at == nil {
		return nil
	}
	if a.forwarder != nil {
		if err := a.forwarder.Close(); err != nil {
			a.log.WithError(err).Warn("end the port forwarding")
		}
		a.forwarder = nil
	}
	if a.resolver != nil {
		if err := a.resolver.Close(); err != nil {
			a.log.WithError(err).Warn("end the answers to queries for names")
		}
		a.resolver = nil
	}
	err := a.at.Close(ctx)
	if errors.Is(err, unix.ENODEV) {
		err = nil // the namespace's interfaces have gone already
	}
	return err
}
