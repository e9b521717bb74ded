//go:build !amd64

package qemu

func tscCounter() func() uint64 { return nil }
