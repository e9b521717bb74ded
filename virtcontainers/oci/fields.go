package oci

// disposition says what becomes of a field of config.json.
type disposition string

const (
	carried disposition = "carried" // copied into the guest's specification
	mapped  disposition = "mapped"  // translated by code
	host    disposition = "host"    // applied on the host, never sent
	refused disposition = "refused" // an error when it is set
	dropped disposition = "dropped" // left out, and reported when it is set
)

// field is a row of the table: a field of specs.Spec by its path in JSON, with
// [] for the elements of an array. A row that is not carried may stand for all
// that is below it; a carried one is always a leaf.
type field struct {
	path        string
	disposition disposition
	reason      string // empty only where the field is carried as it is
}

const (
	otherPlatform = "for another platform; runc ignores it too"
	noCgroup2     = "has no counterpart in cgroup v2, which the guest uses"
	hostDevices   = "names the host's devices: for the host's cgroup, where the file server does the I/O"
	ownCPUs       = "numbers the host's: for the host's cgroup of a container with a VM of its own, whose threads are in it; without an effect in a pod"
)

// fields is the table, in the order of the specification's structures. It is
// what Bundle.Guest works by: a field without a row is never sent, and a test
// fails when the specification has one.
var fields = []field{
	{"ociVersion", mapped, "always 1.0.2 in the guest: crun 1.8 takes only 1.0"},
	{"hostname", carried, "of a pod's UTS namespace where the container is in that"},
	{"domainname", carried, ""},
	{"annotations", host, "kept in the state and given to hooks; the guest's runtime would act on some"},

	{"process.terminal", carried, ""},
	{"process.consoleSize.height", carried, ""},
	{"process.consoleSize.width", carried, ""},
	{"process.user.uid", carried, "at most 2147483647"},
	{"process.user.gid", carried, "as uid"},
	{"process.user.umask", carried, ""},
	{"process.user.additionalGids", carried, "each once"},
	{"process.user.username", dropped, otherPlatform},
	{"process.args", carried, ""},
	{"process.commandLine", dropped, otherPlatform},
	{"process.env", carried, "HOME is added where it has none"},
	{"process.cwd", carried, ""},
	{"process.capabilities.bounding", mapped, "names that no kernel knows are left out, as runc does"},
	{"process.capabilities.effective", mapped, "as bounding"},
	{"process.capabilities.inheritable", mapped, "as bounding"},
	{"process.capabilities.permitted", mapped, "as bounding"},
	{"process.capabilities.ambient", mapped, "as bounding"},
	{"process.rlimits[].type", carried, ""},
	{"process.rlimits[].hard", carried, "RLIMIT_NOFILE is at most 1048576, the bound of a new kernel (fs.nr_open)"},
	{"process.rlimits[].soft", carried, "as hard"},
	{"process.noNewPrivileges", carried, ""},
	{"process.apparmorProfile", dropped, "the guest's kernel has no AppArmor"},
	{"process.oomScoreAdj", carried, ""},
	{"process.scheduler.policy", carried, "set by the agent: for the container's process before it execs, for that of an exec at once after"},
	{"process.scheduler.nice", carried, ""},
	{"process.scheduler.priority", carried, ""},
	{"process.scheduler.flags", carried, ""},
	{"process.scheduler.runtime", carried, ""},
	{"process.scheduler.deadline", carried, ""},
	{"process.scheduler.period", carried, ""},
	{"process.selinuxLabel", dropped, "the guest's kernel has no SELinux"},
	{"process.ioPriority.class", carried, "as scheduler"},
	{"process.ioPriority.priority", carried, ""},
	{"process.execCPUAffinity", dropped, "numbers the host's CPUs"},

	{"root.path", mapped, "the share's rootfs folder"},
	{"root.readonly", carried, ""},

	{"mounts", mapped, "see Mounts"},
	{"mounts[].destination", mapped, "made absolute and clean"},
	{"mounts[].type", mapped, "see Mounts"},
	{"mounts[].source", mapped, "of a bind mount: its place in the share"},
	{"mounts[].options", mapped, "see Mounts"},
	{"mounts[].uidMappings", refused, "the guest's virtiofs cannot map ids"},
	{"mounts[].gidMappings", refused, "the guest's virtiofs cannot map ids"},

	{"hooks.prestart", host, "run by the runtime, in its namespaces"},
	{"hooks.createRuntime", host, "run by the runtime, in its namespaces"},
	{"hooks.createContainer", host, "its path is the host's: run by the runtime, not in the container's mount namespace"},
	{"hooks.startContainer[].path", carried, "a path in the container"},
	{"hooks.startContainer[].args", carried, ""},
	{"hooks.startContainer[].env", carried, ""},
	{"hooks.startContainer[].timeout", carried, ""},
	{"hooks.poststart", host, "run by the runtime, in its namespaces"},
	{"hooks.poststop", host, "run by the runtime, in its namespaces"},

	{"linux.uidMappings[].containerID", carried, "with a user namespace; left out otherwise, as by runc"},
	{"linux.uidMappings[].hostID", carried, "the guest sees the host's ids in the share"},
	{"linux.uidMappings[].size", carried, ""},
	{"linux.gidMappings[].containerID", carried, "as uidMappings"},
	{"linux.gidMappings[].hostID", carried, ""},
	{"linux.gidMappings[].size", carried, ""},
	{"linux.sysctl", mapped, "carried where they are per namespace, refused otherwise, as by runc; net. is dropped with a user namespace"},
	{"linux.cgroupsPath", mapped, "names the host's cgroup; in the guest it is /vc/ and the number of the creation"},
	{"linux.namespaces", mapped, "see Namespaces"},
	{"linux.namespaces[].type", mapped, "see Namespaces"},
	{"linux.namespaces[].path", mapped, "of the network namespace: used by the host; of others see Namespaces"},
	{"linux.devices", mapped, "see Devices"},
	{"linux.devices[].path", carried, ""},
	{"linux.devices[].type", carried, ""},
	{"linux.devices[].major", carried, ""},
	{"linux.devices[].minor", carried, ""},
	{"linux.devices[].fileMode", mapped, "permission bits only; 0666 without one"},
	{"linux.devices[].uid", carried, ""},
	{"linux.devices[].gid", carried, ""},
	{"linux.netDevices", refused, "moving single interfaces of the host into the VM is not supported"},
	{"linux.rootfsPropagation", carried, "within the guest; mounts never travel between host and guest"},
	{"linux.maskedPaths", carried, ""},
	{"linux.readonlyPaths", carried, ""},
	{"linux.mountLabel", dropped, "the guest's kernel has no SELinux"},
	{"linux.intelRdt", dropped, "the VM's threads are not in a resource control group"},
	{"linux.memoryPolicy", dropped, "names the host's memory nodes; the guest has one"},
	{"linux.personality.domain", carried, ""},
	{"linux.personality.flags", carried, ""},
	{"linux.timeOffsets", carried, "added to the guest's clocks, which start with its virtual machine"},

	{"linux.resources.devices", mapped, "rules are checked; a missing access means rwm; rules for block devices of the host apply to those that are plugged"},
	{"linux.resources.devices[].allow", carried, ""},
	{"linux.resources.devices[].type", carried, ""},
	{"linux.resources.devices[].major", carried, ""},
	{"linux.resources.devices[].minor", carried, ""},
	{"linux.resources.devices[].access", mapped, "rwm without one"},
	{"linux.resources.memory.limit", mapped, "0 means unset, as for runc"},
	{"linux.resources.memory.reservation", carried, ""},
	{"linux.resources.memory.swap", mapped, "0 means unset, as for runc"},
	{"linux.resources.memory.kernel", dropped, noCgroup2},
	{"linux.resources.memory.kernelTCP", dropped, noCgroup2},
	{"linux.resources.memory.swappiness", dropped, noCgroup2},
	{"linux.resources.memory.disableOOMKiller", dropped, noCgroup2},
	{"linux.resources.memory.useHierarchy", dropped, noCgroup2},
	{"linux.resources.memory.checkBeforeUpdate", carried, ""},
	{"linux.resources.cpu.shares", mapped, "in the guest cpu.weight, by the function of runc 1.4: 1024 is 100, the default; with a VM of its own, in the host's cgroup too"},
	{"linux.resources.cpu.quota", carried, ""},
	{"linux.resources.cpu.burst", mapped, "as cpu.max.burst"},
	{"linux.resources.cpu.period", mapped, "100000 with a quota and without a period"},
	{"linux.resources.cpu.realtimeRuntime", dropped, noCgroup2},
	{"linux.resources.cpu.realtimePeriod", dropped, noCgroup2},
	{"linux.resources.cpu.cpus", host, ownCPUs},
	{"linux.resources.cpu.mems", host, ownCPUs},
	{"linux.resources.cpu.idle", carried, ""},
	{"linux.resources.pids.limit", carried, ""},
	{"linux.resources.blockIO", host, hostDevices},
	{"linux.resources.hugepageLimits", mapped, "those of 2MB; the guest has no others, and reserves none by itself"},
	{"linux.resources.hugepageLimits[].pageSize", mapped, "as hugepageLimits"},
	{"linux.resources.hugepageLimits[].limit", mapped, "as hugepageLimits"},
	{"linux.resources.network", dropped, noCgroup2},
	{"linux.resources.rdma", dropped, "the guest has no such device"},
	{"linux.resources.unified", mapped, "cpu., memory., pids. and hugetlb. are carried, cgroup. is refused, the others are left to the host"},

	{"linux.seccomp.defaultAction", carried, ""},
	{"linux.seccomp.defaultErrnoRet", mapped, "with SCMP_ACT_ERRNO and SCMP_ACT_TRACE; it says nothing with another action"},
	{"linux.seccomp.architectures", mapped, "those that the guest's libseccomp 2.5 does not know are left out"},
	{"linux.seccomp.flags", carried, ""},
	{"linux.seccomp.listenerPath", refused, "the host cannot serve a listener in the guest"},
	{"linux.seccomp.listenerMetadata", dropped, "means something to a listener only"},
	{"linux.seccomp.syscalls[].names", carried, ""},
	{"linux.seccomp.syscalls[].action", carried, "SCMP_ACT_NOTIFY is refused: the host cannot serve a listener"},
	{"linux.seccomp.syscalls[].errnoRet", mapped, "as defaultErrnoRet"},
	{"linux.seccomp.syscalls[].args[].index", carried, ""},
	{"linux.seccomp.syscalls[].args[].value", carried, ""},
	{"linux.seccomp.syscalls[].args[].valueTwo", carried, ""},
	{"linux.seccomp.syscalls[].args[].op", carried, ""},

	{"solaris", dropped, otherPlatform},
	{"windows", dropped, otherPlatform},
	{"vm", dropped, "the hypervisor and its guest come from the configuration, never from a bundle"},
	{"zos", dropped, otherPlatform},
	{"freebsd", dropped, otherPlatform},
}

// fieldIndex finds the rows of fields by path.
var fieldIndex = indexFields(fields)

func indexFields(rows []field) map[string]field {
	index := make(map[string]field, len(rows))
	for _, f := range rows {
		index[f.path] = f
	}
	return index
}
