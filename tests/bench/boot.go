package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/guestimage"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
	"github.com/vc-runtime/vc-runtime/state"
)

// bootLimit is for one boot, bootMemory of its machine in MiB.
const (
	bootLimit  = 5 * time.Minute
	bootMemory = 128
)

// boot is one boot as it was measured, in ms.
type boot struct{ wall, cpu float64 }

// boots measures cold boots of each guest image up to init's first word: of a
// bare QEMU as one starts it by hand, of the same with the processor and the
// kernel parameters of our machine but none of its devices, and of the machine
// that containers get. The init of the first two says its word on the console and
// does nothing more. CPU time is QEMU's, which does not count what else the host
// has to do.
func (b *bench) boots() error {
	if len(b.images) == 0 {
		return errors.New("no guest image: say -image")
	}
	initrd := filepath.Join(b.dir, "initrd")
	if err := os.WriteFile(initrd, wordInitrd(), 0o644); err != nil {
		return err
	}
	plain, bare, ours := make(map[string][]boot), make(map[string][]boot), make(map[string][]boot)
	for i := range b.n + 1 {
		for _, image := range b.images {
			cfg, err := bootConfig(image)
			if err != nil {
				return err
			}
			byHand, err := bootBare(plainArgs(cfg, initrd))
			if err != nil {
				return fmt.Errorf("%s, by hand: %w", image, err)
			}
			without, err := bootBare(bareArgs(cfg, initrd))
			if err != nil {
				return fmt.Errorf("%s, bare: %w", image, err)
			}
			with, err := bootOurs(cfg)
			if err != nil {
				return fmt.Errorf("%s: %w", image, err)
			}
			if i == 0 {
				continue // the first run fills caches
			}
			plain[image] = append(plain[image], byHand)
			bare[image], ours[image] = append(bare[image], without), append(ours[image], with)
		}
	}
	fmt.Printf("Cold boots up to init's first word, %d interleaved runs, ms: of QEMU by hand and bare QEMU with an init that does nothing, and of our machine:\n\n"+
		"| guest image | | by hand | bare | ours | ours/by hand | ours/bare | to the first image |\n|---|---|---|---|---|---|---|---|\n", b.n)
	wall := func(x boot) float64 { return x.wall }
	cpu := func(x boot) float64 { return x.cpu }
	first := b.images[0]
	for _, image := range b.images {
		printBoots(filepath.Base(image)+" | wall", wall, plain[image], bare[image], ours[image], ours[first])
		printBoots(" | CPU", cpu, plain[image], bare[image], ours[image], ours[first])
		b.bootGoals(image, median(each(plain[image], cpu)), median(each(bare[image], cpu)), median(each(ours[image], cpu)), median(each(ours[first], cpu)))
	}
	return nil
}

func printBoots(name string, of func(boot) float64, plain, bare, ours, first []boot) {
	our := median(each(ours, of))
	fmt.Printf("| %s | %s | %s | %s | %.2f | %.2f | %.2f |\n", name, spread(each(plain, of)), spread(each(bare, of)), spread(each(ours, of)),
		our/median(each(plain, of)), our/median(each(bare, of)), our/median(each(first, of)))
}

func each(boots []boot, of func(boot) float64) []float64 {
	var all []float64
	for _, x := range boots {
		all = append(all, of(x))
	}
	return all
}

// bootConfig is the machine that the default configuration gives a container.
func bootConfig(image string) (hypervisor.Config, error) {
	m, err := guestimage.Load(image)
	if err != nil {
		return hypervisor.Config{}, err
	}
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return hypervisor.Config{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return hypervisor.Config{}, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return hypervisor.Config{}, err
	}
	host := int(uint64(info.Totalram)*uint64(info.Unit)>>20) / hypervisor.MemoryStep * hypervisor.MemoryStep
	return hypervisor.Config{
		Name: state.Mark(self, "bench"), Binary: binary, Accel: hypervisor.AccelTCG,
		CPUs: 1, MaxCPUs: runtime.NumCPU(), MemoryMiB: bootMemory, MaxMemoryMiB: host,
		Kernel: m.KernelPath(), Initrd: m.InitrdPath(), HotplugSlots: 8,
	}, nil
}

// bootOurs boots a machine up to Hello.
func bootOurs(cfg hypervisor.Config) (boot, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()
	begin := time.Now()
	vm, err := qemu.Driver{}.Start(ctx, cfg)
	if err != nil {
		return boot{}, err
	}
	defer vm.Kill()
	defer vm.Channel().Close()
	if err := vm.Channel().SetDeadline(begin.Add(bootLimit)); err != nil {
		return boot{}, err
	}
	var hello api.Hello
	if err := api.ReadLine(vm.Channel(), &hello); err != nil {
		return boot{}, fmt.Errorf("read hello: %w: %s", err, vm.Console())
	}
	return measured(begin, vm.Process().Pid)
}

// bootBare boots a machine with the console on standard output up to init's word.
func bootBare(command []string) (boot, error) {
	cmd := exec.Command(command[0], command[1:]...)
	console, err := cmd.StdoutPipe()
	if err != nil {
		return boot{}, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return boot{}, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	stop := time.AfterFunc(bootLimit, func() { cmd.Process.Kill() })
	defer stop.Stop()
	if err := awaitWord(console); err != nil {
		return boot{}, err
	}
	return measured(begin, cmd.Process.Pid)
}

// plainArgs is QEMU as its documentation has one boot a kernel by hand
// (QEMU: direct Linux boot).
func plainArgs(cfg hypervisor.Config, initrd string) []string {
	return []string{cfg.Binary, "-nodefaults", "-display", "none", "-machine", "q35", "-accel", string(cfg.Accel), "-cpu", "max",
		"-m", strconv.Itoa(cfg.MemoryMiB), "-kernel", cfg.Kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet", "-serial", "stdio"}
}

// bareArgs is our machine's command line without devices, sockets and sandbox.
func bareArgs(cfg hypervisor.Config, initrd string) []string {
	cfg.Initrd, cfg.HotplugSlots, cfg.MaxCPUs, cfg.MaxMemoryMiB = initrd, 0, 0, 0
	args := qemu.Args(cfg, qemu.Layout{Firmware: qemu.FirmwareOf(cfg.Binary)})
	bare := []string{cfg.Binary}
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-device", "-chardev", "-mon", "-sandbox":
			i++ // and its value
		case "-object":
			if i++; strings.HasPrefix(args[i], "memory-backend") {
				bare = append(bare, "-object", args[i])
			}
		default:
			bare = append(bare, args[i])
		}
	}
	return append(bare, "-serial", "stdio")
}

// word is what the init of a bare machine says.
const word = "init is up"

func awaitWord(console io.Reader) error {
	var said []byte
	buf := make([]byte, 4096)
	for {
		n, err := console.Read(buf)
		said = append(said, buf[:n]...)
		if bytes.Contains(said, []byte(word)) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the console: %w: %s", err, said)
		}
	}
}

// ticks a second are what /proc counts CPU time in (proc(5): USER_HZ).
const ticks = 100

func measured(begin time.Time, pid int) (boot, error) {
	wall := lap(begin)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return boot{}, err
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	user, err := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return boot{wall, float64(user+system) * 1000 / ticks}, errors.Join(err, err2)
}

// wordInitrd is an initrd whose init says its word and sleeps, in 60 bytes of
// machine code: no C library, no runtime that starts.
func wordInitrd() []byte {
	var b bytes.Buffer
	inode := 0
	add := func(name string, mode, major, minor int, data []byte) {
		inode++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("dev", unix.S_IFDIR|0o755, 0, 0, nil)
	add("dev/console", unix.S_IFCHR|0o600, 5, 1, nil)
	add("init", unix.S_IFREG|0o755, 0, 0, wordProgram())
	add("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

// wordProgram is init as an ELF file with one segment.
func wordProgram() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, SYS_write
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea rsi, [rip+16]: text
		0xba, byte(len(word)), 0, 0, 0, // mov edx, its length
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, SYS_pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the mov before
	}
	text := append(code, word...)
	var b bytes.Buffer
	le := func(values ...any) {
		for _, v := range values {
			binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer takes all
		}
	}
	// Elf64_Ehdr and one Elf64_Phdr (elf(5)).
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	le(uint16(2), uint16(62), uint32(1), uint64(base+headers), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0))
	size := uint64(headers + len(text))
	le(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000))
	b.Write(text)
	return b.Bytes()
}
