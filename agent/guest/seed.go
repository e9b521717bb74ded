package guest

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Seed sets the clock and feeds the kernel's entropy pool. A guest that was
// cloned from a template has its siblings' random numbers until then.
func Seed(now time.Time, entropy []byte) error {
	if err := addEntropy(entropy); err != nil {
		return fmt.Errorf("add entropy: %w", err)
	}
	if now.UnixNano() == 0 {
		return nil
	}
	ts := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// addEntropy credits the bytes as full entropy and reseeds the generator
// (random(4): RNDADDENTROPY, RNDRESEEDCRNG).
func addEntropy(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	// Not an os.File, which looks whether it can be polled: clones wait here.
	fd, err := unix.Open("/dev/urandom", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/urandom", Err: err}
	}
	defer unix.Close(fd)
	// struct rand_pool_info { int entropy_count; int buf_size; __u32 buf[]; }
	info := make([]byte, 8, 8+len(b))
	binary.NativeEndian.PutUint32(info[0:], uint32(8*len(b)))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(b)))
	info = append(info, b...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0])))
	if errno == 0 {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), rndReseedCRNG, 0)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// rndReseedCRNG is RNDRESEEDCRNG of linux/random.h, _IO('R', 0x07).
const rndReseedCRNG = 0x5207
