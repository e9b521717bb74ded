// Package testenv is what the suites that boot virtual machines stand on. It
// finds the runtime under test and the guest image, makes bundles, drives the
// runtime as conmon does (a child subreaper with one reaper), and asserts
// that nothing is left behind.
//
// A suite runs in namespaces of its own (pid, mount, network, IPC), where
// process 1 is the test program itself. So every process, mount and interface
// that a test finds is the test's own, other users of the machine do not
// disturb it, and a suite that is killed leaves no process behind.
//
// Environment:
//
//	VC_RUNTIME    runtime under test; bin/vc-runtime of this tree if unset.
//	              Any other name, such as /usr/sbin/runc, checks the suite
//	              itself: tests of what only a VM has are skipped, loudly.
//	VC_GUEST_DIR  folder of the guest image; build/guest if unset
//	VC_CYCLES     how many times the unmount test stops a container; 20
//	VC_KEEP       keeps the suite's folder, for a look at the logs
package testenv
