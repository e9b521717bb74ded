// Package network connects a virtual machine to the network namespace that the
// callers of a runtime prepare for a container. It runs in the monitor, which
// stays in the host's namespace itself.
//
// # How packets go
//
// For each interface of the namespace there is a tap device next to it, and two
// traffic control filters that hand everything that comes in on the one out on
// the other:
//
//	bridge ── veth ── eth0 ⇄ vctap0 ── QEMU ── eth0 in the guest
//
// or, with ModeMacvtap, a macvtap on it, which takes all of its packets:
//
//	bridge ── veth ── eth0 ── macvtap ── QEMU ── eth0 in the guest
//
// The guest's interface has the name, the hardware address, the MTU, the
// addresses, routes and permanent neighbours of the namespace's, so that to the
// peer it is the same station. The namespace's own interface keeps all of that;
// its addresses receive nothing any more (under a macvtap, nothing but broadcasts
// and multicasts, of which the guest gets a copy: the namespace's answers to ARP and
// neighbour discovery are the same as the guest's).
//
// The filters are u32 with a key that matches everything, and mirred: the two
// are there wherever traffic control is. Segmentation and checksums are left to
// whoever is last (IFF_VNET_HDR): between two guests of a host nobody does them.
// QEMU asks the tap for what the guest's driver takes (TUNSETOFFLOAD): checksums,
// TSO for IPv4 and IPv6, with ECN; mirred and macvtap leave such packets whole.
//
// An interface has a queue for each vCPU, up to the number that is configured. The
// guest's agent has the driver use all of them. Where the host has vhost-net,
// its kernel carries the packets of each queue, else QEMU does, for all queues in one
// thread.
//
// # What is not carried over
//
// Interfaces that are down, that are a port of another one or lo; other tables
// than the main one and rules; sysctls, which come with the specification. What
// would carry packets and cannot be carried over is an error: an interface that
// is no Ethernet, routes with several gateways or an encapsulation.
//
// # What lives how long
//
// A macvtap lives in a network namespace of its own, which nothing holds but the
// files that it was opened with and, for Close, the Attachment: so it goes with them
// as a tap does, or with the interface that it is on. What stays is nothing.
//
// A tap lives as long as the files it was made with: those that QEMU has, and
// until they are plugged ours. If the monitor is killed QEMU is, and the tap
// goes, and with it its filter. What stays is the ingress qdisc on the
// namespace's interface, whose filter drops what comes in; the next Attach
// replaces it, and whoever ends the namespace ends it. A tap keeps its namespace
// alive; its interfaces can be removed at any time, as callers do before they
// stop the container.
//
// # Port forwarding
//
// CRI-O and containerd forward a port by dialling localhost in the namespace.
// Packets to 127.0.0.1 and ::1 never leave lo, and no filter can hand them to the
// guest, whose kernel would drop them as martians. So connections end on the host
// and their bytes go through the guest channel, which also reaches servers that
// listen on the guest's localhost only, as with other runtimes:
//
//   - A Forwarder has one listening TCP socket for each family in the namespace
//     and attaches a BPF program of the type sk_lookup to it (Linux 5.9), which
//     steers to that every new connection to a loopback address. Nothing of a
//     sandbox listens in its namespace on the host.
//   - The local address of an accepted connection has the port that was meant.
//     The agent dials that on localhost in the guest and copies, each direction
//     for itself. Where nobody listens the connection is reset.
//   - Where the kernel has no sk_lookup, there is no port forwarding, and the log
//     of the monitor says so. Listening on every port that the guest listens on
//     would need to know them by polling.
//   - The number of connections at a time is bounded, and each has its own
//     stream, so that one that is not read stops no other.
//
// # Names
//
// Docker's DNS server listens on 127.0.0.11 in the namespace of a container that
// is on a network of the user's, behind rules that lead port 53 to its own. Where
// a Resolver finds it, the agent has what is sent there in the guest led to ports of
// its own, by programs at connect(2) and its like, and each query goes through the
// guest channel and is asked again in the namespace, by the transport that it came
// over. What a query or an answer says is the server's and the container's
// business: nobody looks into them, or keeps them.
package network
