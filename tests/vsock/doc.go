// Package vsock tests containers whose agent is talked to over vsock, and whose
// packets the host's kernel carries (vhost-net), on any host: it boots an emulated
// machine of Debian's kernel with the modules vhost_vsock and vhost_net (the outer
// machine), and runs vc-runtime in that. Emulation within
// emulation is slow: `make test-vsock` takes many minutes, and is no part of
// `make test`. What can be tested without these devices is tested where it
// belongs: agent/server, agent/vmtest, hypervisor/qemu, monitor/sandbox.
//
// The test program runs in both machines: TestVsock on the host makes and
// starts the outer one, whose init has the program run TestInside.
//
//	VC_TEST_VSOCK  which of the tests inside to run, "." for all; unset skips
//	VC_GUEST_DIR   folder of the guest image; build/guest if unset
//	VC_RUNTIME     runtime under test; bin/vc-runtime if unset
//	VC_KEEP        keeps the outer machine's folder, for a look at its console
package vsock
