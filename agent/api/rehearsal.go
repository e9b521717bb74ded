package api

// RehearsedSpec is a container like those that podman, CRI-O and docker ask for, in
// which a machine rehearses before anybody asks for one: a template runs crun
// itself there, the one program in reach, a spare what its host has shared.
const RehearsedSpec = `{
	"ociVersion": "1.0.2",
	"root": {"path": "rootfs"},
	"hostname": "rehearsal",
	"process": ` + RehearsedProcess + `,
	"mounts": [
		{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
		{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
		{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
		{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
		{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
		{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
	],
	"linux": {
		"resources": {"devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 67108864}, "pids": {"limit": 100}},
		"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
		"maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
		"readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]
	}
}`

// RehearsedProcess is its process.
const RehearsedProcess = `{
	"user": {"uid": 0, "gid": 0, "additionalGids": [0]}, "cwd": "/", "args": ["program", "--version"],
	"env": ["PATH=/bin", "TERM=xterm"], "noNewPrivileges": true,
	"capabilities": {
		"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"], "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
		"permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]
	},
	"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
}`
