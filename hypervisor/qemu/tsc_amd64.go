package qemu

// rdtsc reads the time stamp counter (Intel SDM volume 2, RDTSC).
// github.com/klauspost/cpuid could as well, but asks the CPU for all its
// features before main, which in a virtual machine leaves it some fifty times.
func rdtsc() uint64

func tscCounter() func() uint64 { return rdtsc }
