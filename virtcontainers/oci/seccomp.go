package oci

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mapSeccomp checks what is carried of a profile, with runc's texts, and
// filters its architectures.
func (t *translation) mapSeccomp(dst, src *specs.LinuxSeccomp) error {
	if err := checkAction("linux.seccomp.defaultAction", dst.DefaultAction); err != nil {
		return err
	}
	dst.DefaultErrnoRet = errnoFor(src.DefaultAction, src.DefaultErrnoRet)
	for i, arch := range src.Architectures {
		if !seccompArchs[arch] {
			t.drop(fmt.Sprintf("linux.seccomp.architectures[%d]", i), fmt.Sprintf("the guest's libseccomp does not know %q", arch))
			continue
		}
		dst.Architectures = append(dst.Architectures, arch)
	}
	for _, flag := range dst.Flags {
		if !seccompFlags[flag] {
			return fmt.Errorf("seccomp flag %q not supported", flag)
		}
	}
	named := dst.Syscalls[:0]
	for i, call := range dst.Syscalls {
		if err := checkAction(fmt.Sprintf("linux.seccomp.syscalls[%d].action", i), call.Action); err != nil {
			return err
		}
		for _, arg := range call.Args {
			if !seccompOperators[arg.Op] {
				return fmt.Errorf("string %s is not a valid operator for seccomp", arg.Op)
			}
		}
		call.ErrnoRet = errnoFor(call.Action, src.Syscalls[i].ErrnoRet)
		if len(call.Names) > 0 { // says nothing without, and crun wants one
			named = append(named, call)
		}
	}
	dst.Syscalls = named
	return nil
}

// errnoFor leaves out an errno that says nothing; crun takes it for an error.
func errnoFor(action specs.LinuxSeccompAction, errno *uint) *uint {
	if action == specs.ActErrno || action == specs.ActTrace {
		return errno
	}
	return nil
}

func checkAction(field string, action specs.LinuxSeccompAction) error {
	if action == specs.ActNotify {
		return fmt.Errorf("%s: %s: the host cannot serve a listener in the guest", field, action)
	}
	if !seccompActions[action] {
		return fmt.Errorf("string %s is not a valid action for seccomp", action)
	}
	return nil
}

var seccompActions = map[specs.LinuxSeccompAction]bool{
	specs.ActKill: true, specs.ActKillProcess: true, specs.ActKillThread: true, specs.ActTrap: true,
	specs.ActErrno: true, specs.ActTrace: true, specs.ActAllow: true, specs.ActLog: true,
}

var seccompOperators = map[specs.LinuxSeccompOperator]bool{
	specs.OpNotEqual: true, specs.OpLessThan: true, specs.OpLessEqual: true, specs.OpEqualTo: true,
	specs.OpGreaterEqual: true, specs.OpGreaterThan: true, specs.OpMaskedEqual: true,
}

var seccompFlags = map[specs.LinuxSeccompFlag]bool{
	"SECCOMP_FILTER_FLAG_TSYNC":            true,
	specs.LinuxSeccompFlagLog:              true,
	specs.LinuxSeccompFlagSpecAllow:        true,
	specs.LinuxSeccompFlagWaitKillableRecv: true,
}

// seccompArchs are those of libseccomp 2.5 (seccomp_arch_add(3)).
var seccompArchs = map[specs.Arch]bool{
	specs.ArchX86: true, specs.ArchX86_64: true, specs.ArchX32: true,
	specs.ArchARM: true, specs.ArchAARCH64: true,
	specs.ArchMIPS: true, specs.ArchMIPS64: true, specs.ArchMIPS64N32: true,
	specs.ArchMIPSEL: true, specs.ArchMIPSEL64: true, specs.ArchMIPSEL64N32: true,
	specs.ArchPPC: true, specs.ArchPPC64: true, specs.ArchPPC64LE: true,
	specs.ArchS390: true, specs.ArchS390X: true,
	specs.ArchPARISC: true, specs.ArchPARISC64: true, specs.ArchRISCV64: true,
}
