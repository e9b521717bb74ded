package oci

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxOpenFiles is fs.nr_open of a kernel that nobody has told otherwise: a
// larger RLIMIT_NOFILE is EPERM even for root (getrlimit(2)).
const maxOpenFiles = 1 << 20

// mapProcess does what the table calls mapped of a process.
func (r *report) mapProcess(dst, src *specs.Process) error {
	if src.Args[0] == "" {
		return errNoProgram
	}
	if err := mapUser(&dst.User); err != nil {
		return err
	}
	for _, v := range src.Env {
		if !strings.Contains(v, "=") {
			return fmt.Errorf("unable to start container process: error during container init: invalid environment variable: %.200q", v) // runc's text
		}
	}
	if src.Capabilities != nil {
		r.mapCapabilities(dst.Capabilities, src.Capabilities)
	}
	if err := checkPriority(src); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for i := range dst.Rlimits {
		l := &dst.Rlimits[i]
		switch {
		case !rlimits[l.Type]:
			return fmt.Errorf("wrong rlimit value: %s", l.Type) // runc's text
		case seen[l.Type]:
			return fmt.Errorf("process.rlimits[%d]: a second %s", i, l.Type)
		case l.Soft > l.Hard:
			return fmt.Errorf("process.rlimits[%d]: the soft limit of %s is above the hard one", i, l.Type)
		}
		seen[l.Type] = true
		if l.Type == "RLIMIT_NOFILE" && l.Hard > maxOpenFiles {
			r.drop(fmt.Sprintf("process.rlimits[%d]", i), fmt.Sprintf("brought down to the guest's bound, %d", maxOpenFiles))
			l.Hard, l.Soft = maxOpenFiles, min(l.Soft, maxOpenFiles)
		}
	}
	return nil
}

// What runc says of a process that it cannot start.
var (
	errNoProgram = errors.New(`unable to start container process: exec: "": executable file not found in $PATH`)
	errIDRange   = errors.New("unable to start container process: unable to setup user: uids and gids must be in range 0-2147483647")
)

// mapUser refuses ids that are negative in C: setuid(2) takes -1 for "leave it
// as it is", which is root.
func mapUser(user *specs.User) error {
	for _, id := range append([]uint32{user.UID, user.GID}, user.AdditionalGids...) {
		if id > math.MaxInt32 {
			return errIDRange
		}
	}
	if user.AdditionalGids != nil {
		user.AdditionalGids = slices.Compact(slices.Sorted(slices.Values(user.AdditionalGids)))
	}
	return nil
}

// What the agent takes for scheduling; the kernel has no SCHED_ISO.
var (
	ioClasses     = set(string(specs.IOPRIO_CLASS_RT), string(specs.IOPRIO_CLASS_BE), string(specs.IOPRIO_CLASS_IDLE))
	schedPolicies = set(string(specs.SchedOther), string(specs.SchedFIFO), string(specs.SchedRR),
		string(specs.SchedBatch), string(specs.SchedIdle), string(specs.SchedDeadline))
	schedFlags = set(string(specs.SchedFlagResetOnFork), string(specs.SchedFlagReclaim), string(specs.SchedFlagDLOverrun),
		string(specs.SchedFlagKeepPolicy), string(specs.SchedFlagKeepParams), string(specs.SchedFlagUtilClampMin),
		string(specs.SchedFlagUtilClampMax))
)

// checkPriority looks at what a process says of its scheduling. Whether the
// numbers fit the policy is for the guest's kernel to say.
func checkPriority(src *specs.Process) error {
	if io := src.IOPriority; io != nil {
		if !ioClasses[string(io.Class)] {
			return fmt.Errorf("process.ioPriority.class: unknown class %q", io.Class)
		}
		if io.Priority < 0 || io.Priority > 7 {
			return fmt.Errorf("process.ioPriority.priority: %d: expected 0 to 7", io.Priority)
		}
	}
	if s := src.Scheduler; s != nil {
		if !schedPolicies[string(s.Policy)] {
			return fmt.Errorf("process.scheduler.policy: unknown policy %q", s.Policy)
		}
		for i, flag := range s.Flags {
			if !schedFlags[string(flag)] {
				return fmt.Errorf("process.scheduler.flags[%d]: unknown flag %q", i, flag)
			}
		}
		if s.Priority < 0 {
			return fmt.Errorf("process.scheduler.priority: %d: expected 0 to 99", s.Priority)
		}
	}
	return nil
}

func (r *report) mapCapabilities(dst, src *specs.LinuxCapabilities) {
	filter := func(set string, names []string) []string {
		var known []string
		for _, name := range names {
			if capabilities[name] {
				known = append(known, name)
			} else {
				r.drop("process.capabilities."+set, fmt.Sprintf("unknown capability %q", name))
			}
		}
		return known
	}
	dst.Bounding = filter("bounding", src.Bounding)
	dst.Effective = filter("effective", src.Effective)
	dst.Inheritable = filter("inheritable", src.Inheritable)
	dst.Permitted = filter("permitted", src.Permitted)
	dst.Ambient = filter("ambient", src.Ambient)
}

// rlimits are the limits that Linux knows (getrlimit(2)).
var rlimits = map[string]bool{
	"RLIMIT_AS": true, "RLIMIT_CORE": true, "RLIMIT_CPU": true, "RLIMIT_DATA": true,
	"RLIMIT_FSIZE": true, "RLIMIT_LOCKS": true, "RLIMIT_MEMLOCK": true, "RLIMIT_MSGQUEUE": true,
	"RLIMIT_NICE": true, "RLIMIT_NOFILE": true, "RLIMIT_NPROC": true, "RLIMIT_RSS": true,
	"RLIMIT_RTPRIO": true, "RLIMIT_RTTIME": true, "RLIMIT_SIGPENDING": true, "RLIMIT_STACK": true,
}

// capabilities are those that the guest's kernel knows (capabilities(7)).
var capabilities = map[string]bool{
	"CAP_AUDIT_CONTROL": true, "CAP_AUDIT_READ": true, "CAP_AUDIT_WRITE": true,
	"CAP_BLOCK_SUSPEND": true, "CAP_BPF": true, "CAP_CHECKPOINT_RESTORE": true,
	"CAP_CHOWN": true, "CAP_DAC_OVERRIDE": true, "CAP_DAC_READ_SEARCH": true,
	"CAP_FOWNER": true, "CAP_FSETID": true, "CAP_IPC_LOCK": true, "CAP_IPC_OWNER": true,
	"CAP_KILL": true, "CAP_LEASE": true, "CAP_LINUX_IMMUTABLE": true, "CAP_MAC_ADMIN": true,
	"CAP_MAC_OVERRIDE": true, "CAP_MKNOD": true, "CAP_NET_ADMIN": true,
	"CAP_NET_BIND_SERVICE": true, "CAP_NET_BROADCAST": true, "CAP_NET_RAW": true,
	"CAP_PERFMON": true, "CAP_SETFCAP": true, "CAP_SETGID": true, "CAP_SETPCAP": true,
	"CAP_SETUID": true, "CAP_SYSLOG": true, "CAP_SYS_ADMIN": true, "CAP_SYS_BOOT": true,
	"CAP_SYS_CHROOT": true, "CAP_SYS_MODULE": true, "CAP_SYS_NICE": true, "CAP_SYS_PACCT": true,
	"CAP_SYS_PTRACE": true, "CAP_SYS_RAWIO": true, "CAP_SYS_RESOURCE": true,
	"CAP_SYS_TIME": true, "CAP_SYS_TTY_CONFIG": true, "CAP_WAKE_ALARM": true,
}
