// Package vmtest holds the tests of the agent in a real virtual machine. They
// run when VC_TEST_GUEST names the folder of a guest image, and are skipped
// otherwise.
package vmtest
