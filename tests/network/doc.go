// Package network tests that a virtual machine has the network that its
// namespace has: with a real guest, and peers in namespaces that the tests
// make. Nothing of the host's network is touched. Package testenv/machine says
// what is to be there.
package network
