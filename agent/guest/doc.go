// Package guest sets up the virtual machine that the agent is PID 1 of: root,
// kernel file systems, modules, clock, entropy, cgroups; it finds the channel
// to the host and mounts the shares that the host plugs in. It runs in the
// guest only.
package guest
