package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// cacheLimit is how many answers are kept, in case images alternate.
const cacheLimit = 8

// bootIDFile changes with each boot of the host (random(4)).
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// probeKey is everything that an answer depends on.
type probeKey struct {
	ImageID string `json:"imageId"`
	// The QEMU: asking it for its version would take 20 ms at each create, and
	// a new version is a new file.
	Binary      string `json:"binary"`
	BinarySize  int64  `json:"binarySize"`
	BinaryMtime int64  `json:"binaryMtime"` // ns since the epoch
	BootID      string `json:"bootId"`
	Device      string `json:"device"` // why KVM cannot be opened, "" if it can
}

// probeRecord is one answer in the cache file.
type probeRecord struct {
	Key    probeKey         `json:"key"`
	Accel  hypervisor.Accel `json:"accel"`
	Reason string           `json:"reason,omitempty"`
}

// probeFile is the cache file, the newest answer first.
type probeFile struct {
	Version int           `json:"version"`
	Probes  []probeRecord `json:"probes"`
}

const probeFileVersion = 1

func (cfg ProbeConfig) key(deviceErr error) (probeKey, error) {
	binary, err := os.Stat(cfg.Machine.Binary)
	if err != nil {
		return probeKey{}, binaryError(cfg.Machine.Binary, err)
	}
	for _, path := range []string{cfg.Machine.Kernel, cfg.Machine.Initrd} {
		if _, err := os.Stat(path); err != nil {
			return probeKey{}, fmt.Errorf("guest image: %w", err)
		}
	}
	bootID, err := os.ReadFile(bootIDFile)
	if err != nil {
		return probeKey{}, err
	}
	key := probeKey{
		ImageID:     cfg.ImageID,
		Binary:      cfg.Machine.Binary,
		BinarySize:  binary.Size(),
		BinaryMtime: binary.ModTime().UnixNano(),
		BootID:      strings.TrimSpace(string(bootID)),
	}
	if deviceErr != nil {
		key.Device = deviceErr.Error()
	}
	return key, nil
}

// readProbe finds an answer. A file that is missing, damaged or of another
// version has none: it is only a cache.
func readProbe(path string, key probeKey) (Probe, bool) {
	for _, r := range readProbes(path) {
		known := r.Accel == hypervisor.AccelKVM || r.Accel == hypervisor.AccelTCG
		if r.Key == key && known {
			return Probe{Accel: r.Accel, Reason: r.Reason}, true
		}
	}
	return Probe{}, false
}

func readProbes(path string) []probeRecord {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var f probeFile
	if json.Unmarshal(b, &f) != nil || f.Version != probeFileVersion {
		return nil
	}
	return f.Probes
}

// writeProbe adds an answer to the file, which it replaces whole. The caller
// holds the lock. There is no fsync: what a power cut takes is found again.
func writeProbe(path string, key probeKey, p Probe) error {
	others := slices.DeleteFunc(readProbes(path), func(r probeRecord) bool {
		return r.Key == key || r.Key.BootID != key.BootID
	})
	f := probeFile{
		Version: probeFileVersion,
		Probes:  append([]probeRecord{{Key: key, Accel: p.Accel, Reason: p.Reason}}, others...),
	}
	f.Probes = f.Probes[:min(len(f.Probes), cacheLimit)]
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// One name for all: only the holder of the lock writes, and a leftover of
	// one that was killed is overwritten.
	aside := path + ".new"
	if err := os.WriteFile(aside, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(aside, path)
}
