// Package network tests that a virtual machine has the network that its
// namespace has: with a real guest, and peers in namespaces that the tests
// make. Nothing of the host's network is touched.
//
//	VC_GUEST_DIR  folder of the guest image; build/guest if unset
//	VC_QEMU       path of QEMU; found in PATH if unset
//	VC_VIRTIOFSD  path of the file server; Debian's if unset
package network
