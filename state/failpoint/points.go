package failpoint

// The places, in the order in which a container's life comes by them. The
// fault tests go through Points: a place that is not in there cannot be armed.
const (
	CreateBegin         Name = "create.begin"
	CreateAdopt         Name = "create.adopt"
	CreateEvict         Name = "create.evict"
	CreateRecord        Name = "create.record"
	CreateRecordCgroup  Name = "create.record-cgroup"
	CreateLockSandbox   Name = "create.lock-sandbox"
	CreateJoin          Name = "create.join"
	CreateSandboxFolder Name = "create.sandbox-folder"
	CreateSocket        Name = "create.socket"
	CreateSpawnMonitor  Name = "create.spawn-monitor"
	CreateRecordSandbox Name = "create.record-sandbox"
	CreateEnterCgroup   Name = "create.enter-cgroup"
	CreateMakeCgroup    Name = "create.make-cgroup"
	CreateBriefMonitor  Name = "create.brief-monitor"
	CreateSpawnShim     Name = "create.spawn-shim"
	CreateConsole       Name = "create.console"
	CreateBriefShim     Name = "create.brief-shim"
	CreateAwaitShim     Name = "create.await-shim"
	CreateHooks         Name = "create.hooks"
	CreateRecordCreated Name = "create.record-created"
	CreateClaim         Name = "create.claim"
	CreatePidFile       Name = "create.pid-file"
	CreateDone          Name = "create.done"
	CreateUndo          Name = "create.undo"

	StartBegin  Name = "start.begin"
	StartAsk    Name = "start.ask"
	StartNotify Name = "start.notify"
	StartReady  Name = "start.ready"
	StartRecord Name = "start.record"
	StartHooks  Name = "start.hooks"
	StartDone   Name = "start.done"
	StartTell   Name = "start.tell"

	ExecSpawnShim  Name = "exec.spawn-shim"
	ExecCgroup     Name = "exec.cgroup"
	ExecBriefShim  Name = "exec.brief-shim"
	ExecPidFile    Name = "exec.pid-file"
	ExecForeground Name = "exec.foreground"

	KillAsk      Name = "kill.ask"
	KillTerm     Name = "kill.term"
	KillSignal   Name = "kill.signal"
	KillRelease  Name = "kill.release"
	KillCreating Name = "kill.creating"
	KillForce    Name = "kill.force"
	KillSandbox  Name = "kill.sandbox"

	DeleteBegin       Name = "delete.begin"
	DeleteStop        Name = "delete.stop"
	DeleteShim        Name = "delete.shim"
	DeleteLockSandbox Name = "delete.lock-sandbox"
	DeleteSandbox     Name = "delete.sandbox"
	DeleteAbandon     Name = "delete.abandon"
	DeleteFolder      Name = "delete.folder"
	DeleteCgroup      Name = "delete.cgroup"
	DeleteRecord      Name = "delete.record"
	DeleteHooks       Name = "delete.hooks"

	StateFolder     Name = "state.folder"
	StateWrite      Name = "state.write"
	StateSync       Name = "state.sync"
	StateRename     Name = "state.rename"
	StateSyncFolder Name = "state.sync-folder"
	StateRemove     Name = "state.remove"

	MonitorLock           Name = "monitor.lock"
	MonitorBoot           Name = "monitor.boot"
	MonitorCheckVsock     Name = "monitor.check-vsock"
	MonitorPlace          Name = "monitor.place"
	MonitorMakeTemplate   Name = "monitor.make-template"
	MonitorGreetTemplate  Name = "monitor.greet-template"
	MonitorSaveTemplate   Name = "monitor.save-template"
	MonitorSpawnVM        Name = "monitor.spawn-vm"
	MonitorRecordVM       Name = "monitor.record-vm"
	MonitorGreet          Name = "monitor.greet"
	MonitorBooted         Name = "monitor.booted"
	MonitorAnswers        Name = "monitor.answers"
	MonitorAwaitMachine   Name = "monitor.await-machine"
	MonitorReady          Name = "monitor.ready"
	MonitorPlug           Name = "monitor.plug"
	MonitorPlugDisks      Name = "monitor.plug-disks"
	MonitorGrow           Name = "monitor.grow"
	MonitorCreate         Name = "monitor.create"
	MonitorWait           Name = "monitor.wait"
	MonitorNetwork        Name = "monitor.network"
	MonitorTap            Name = "monitor.tap"
	MonitorClearStale     Name = "monitor.clear-stale"
	MonitorOpenTap        Name = "monitor.open-tap"
	MonitorTapUp          Name = "monitor.tap-up"
	MonitorQdisc          Name = "monitor.qdisc"
	MonitorFilter         Name = "monitor.filter"
	MonitorVhost          Name = "monitor.vhost"
	MonitorForward        Name = "monitor.forward"
	MonitorPlugNIC        Name = "monitor.plug-nic"
	MonitorTellNetwork    Name = "monitor.tell-network"
	MonitorResolver       Name = "monitor.resolver"
	MonitorCreated        Name = "monitor.created"
	MonitorLeavePlace     Name = "monitor.leave-place"
	MonitorStream         Name = "monitor.stream"
	MonitorClaimed        Name = "monitor.claimed"
	MonitorStart          Name = "monitor.start"
	MonitorExec           Name = "monitor.exec"
	MonitorSignal         Name = "monitor.signal"
	MonitorRemove         Name = "monitor.remove"
	MonitorUnplug         Name = "monitor.unplug"
	MonitorKillVM         Name = "monitor.kill-vm"
	MonitorCloseNetwork   Name = "monitor.close-network"
	MonitorRemoveTap      Name = "monitor.remove-tap"
	MonitorRemoveRedirect Name = "monitor.remove-redirect"
	MonitorExit           Name = "monitor.exit"
	MonitorEnd            Name = "monitor.end"

	SpareClaim    Name = "spare.claim"
	SpareHandOver Name = "spare.hand-over"
	SpareAdopt    Name = "spare.adopt"
	SpareRefill   Name = "spare.refill"
	SpareFill     Name = "spare.fill"
	SpareRecord   Name = "spare.record"
	SpareBrief    Name = "spare.brief"
	SpareStart    Name = "spare.start"
	SpareRehearse Name = "spare.rehearse"
	SparePlug     Name = "spare.plug"
	SpareReady    Name = "spare.ready"
	SpareServe    Name = "spare.serve"

	ShimAwait       Name = "shim.await"
	ShimBegin       Name = "shim.begin"
	ShimLoopback    Name = "shim.loopback"
	ShimSocket      Name = "shim.socket"
	ShimOpenTree    Name = "shim.open-tree"
	ShimMount       Name = "shim.mount"
	ShimAttach      Name = "shim.attach"
	ShimSpawnServer Name = "shim.spawn-server"
	ShimCreate      Name = "shim.create"
	ShimEnter       Name = "shim.enter"
	ShimLeaveHost   Name = "shim.leave-host"
	ShimConsole     Name = "shim.console"
	ShimStreams     Name = "shim.streams"
	ShimReport      Name = "shim.report"
	ShimExit        Name = "shim.exit"
	ShimEnd         Name = "shim.end"
)

// Points are all places.
var Points = []Point{
	{CreateBegin, Command, Create, "the operation"},
	{CreateAdopt, Command, Create, "the claim on what an earlier create has left"},
	{CreateEvict, Command, Create, "the end of what an earlier create of another request has left"},
	{CreateRecord, Command, Create, "the first record of the container"},
	{CreateRecordCgroup, Command, Create, "the record of the cgroup that will be made, or has been"},
	{CreateLockSandbox, Command, Create, "the lock of the sandbox"},
	{CreateJoin, Command, Create, "the claim on a container in a pod that exists"},
	{CreateSandboxFolder, Command, Create, "the sandbox's folder"},
	{CreateSocket, Command, Create, "the monitor's socket"},
	{CreateSpawnMonitor, Command, Create, "the monitor's process"},
	{CreateRecordSandbox, Command, Create, "the sandbox's record"},
	{CreateEnterCgroup, Command, Create, "a process moves into the cgroup, which is made for the first one"},
	{CreateMakeCgroup, Command, Create, "one folder of the cgroup"},
	{CreateBriefMonitor, Command, Create, "the monitor's configuration, upon which the VM starts"},
	{CreateSpawnShim, Command, Create, "the shim's process"},
	{CreateConsole, Command, Create, "the connection to the console socket"},
	{CreateBriefShim, Command, Create, "the shim's configuration, upon which it makes the container"},
	{CreateAwaitShim, Command, Create, "waiting for the shim"},
	{CreateHooks, Command, Create, "the hooks of create"},
	{CreateRecordCreated, Command, Create, "the record that says created"},
	{CreateClaim, Command, Create, "the claim made good"},
	{CreatePidFile, Command, Create, "the pid-file"},
	{CreateDone, Command, Create, "the end of create"},
	{CreateUndo, Command, Create, "one step of undoing a create that has failed"},

	{StartBegin, Command, Start, "the operation"},
	{StartAsk, Command, Start, "the request to the monitor"},
	{StartNotify, Command, Start, "the connection to the service manager"},
	{StartReady, Command, Start, "the request to the monitor for word that the container is ready"},
	{StartRecord, Command, Start, "the record that says running"},
	{StartHooks, Command, Start, "the poststart hooks"},
	{StartDone, Command, Start, "the end of start"},
	{StartTell, Command, Start, "word to the service manager that the container is ready"},

	{ExecSpawnShim, Command, Exec, "the shim's process"},
	{ExecCgroup, Command, Exec, "the shim moves into the container's cgroup"},
	{ExecBriefShim, Command, Exec, "the shim's configuration"},
	{ExecPidFile, Command, Exec, "the pid-file"},
	{ExecForeground, Command, Exec, "the request to the monitor, without a shim"},

	{KillAsk, Command, Kill, "the request to the monitor"},
	{KillTerm, Command, Kill, "the request to the monitor, which is to be patient"},
	{KillSignal, Command, Kill, "the request to the monitor, of any other signal"},
	{KillRelease, Command, Kill, "waiting for the shim's end"},
	{KillCreating, Command, Kill, "the request to the monitor, while create still runs"},
	{KillForce, Command, Kill, "the end of the shim by force"},
	{KillSandbox, Command, Kill, "the end of the monitor and the VM by force"},

	{DeleteBegin, Command, Delete, "the operation"},
	{DeleteStop, Command, Delete, "the stop of a container that lives"},
	{DeleteShim, Command, Delete, "the end of what is left of the shim"},
	{DeleteLockSandbox, Command, Delete, "the lock of the sandbox"},
	{DeleteSandbox, Command, Delete, "the end of the sandbox"},
	{DeleteAbandon, Command, Delete, "the request to a monitor that is kept"},
	{DeleteFolder, Command, Delete, "the removal of the sandbox's folder"},
	{DeleteCgroup, Command, Delete, "the removal of the cgroup"},
	{DeleteRecord, Command, Delete, "the removal of the record"},
	{DeleteHooks, Command, Delete, "the poststop hooks"},

	{StateFolder, Any, Create, "a folder of the state"},
	{StateWrite, Any, Create, "the text of a record, aside"},
	{StateSync, Any, Create, "its way to the disk"},
	{StateRename, Any, Create, "its name"},
	{StateSyncFolder, Any, Create, "the name's way to the disk"},
	{StateRemove, Any, Delete, "the removal of one name"},

	{MonitorLock, Monitor, Create, "the lock that proves the monitor's life"},
	{MonitorBoot, Monitor, Create, "the boot"},
	{MonitorCheckVsock, Monitor, Create, "the look whether the host has vsock"},
	{MonitorPlace, Monitor, Create, "a place among the machines that start"},
	{MonitorMakeTemplate, Monitor, Create, "the machine that a template is made of"},
	{MonitorGreetTemplate, Monitor, Create, "waiting for the agent of the template's machine"},
	{MonitorSaveTemplate, Monitor, Create, "the template's files"},
	{MonitorSpawnVM, Monitor, Create, "QEMU's process"},
	{MonitorRecordVM, Monitor, Create, "the record of QEMU's process"},
	{MonitorGreet, Monitor, Create, "the connection to the agent, and waiting for its answer"},
	{MonitorBooted, Monitor, Create, "word that the agent has answered"},
	{MonitorAnswers, Monitor, Create, "a call to see whether the agent of a clone answers"},
	{MonitorAwaitMachine, Monitor, Create, "waiting for the machine, with something to be done in it"},
	{MonitorPlug, Monitor, Create, "the file server's device"},
	{MonitorPlugDisks, Monitor, Create, "the disks"},
	{MonitorGrow, Monitor, Create, "CPUs, or memory, for the container"},
	{MonitorCreate, Monitor, Create, "the agent's call to create the container"},
	{MonitorWait, Monitor, Create, "the agent's call to wait for the process"},
	{MonitorNetwork, Monitor, Create, "the VM's interfaces"},
	{MonitorTap, Monitor, Create, "the tap of an interface"},
	{MonitorClearStale, Monitor, Create, "the removal of the traffic control that a killed monitor has left"},
	{MonitorOpenTap, Monitor, Create, "one queue of a tap"},
	{MonitorTapUp, Monitor, Create, "the tap's MTU and flags"},
	{MonitorQdisc, Monitor, Create, "an ingress qdisc, of the tap or the interface"},
	{MonitorFilter, Monitor, Create, "the filter in it, which redirects"},
	{MonitorVhost, Monitor, Create, "the kernel's virtio-net for the tap"},
	{MonitorForward, Monitor, Create, "the forwarding of connections to localhost"},
	{MonitorPlugNIC, Monitor, Create, "the device of an interface"},
	{MonitorTellNetwork, Monitor, Create, "the agent's call to configure the network"},
	{MonitorResolver, Monitor, Create, "the look for a DNS server in the namespace"},
	{MonitorCreated, Monitor, Create, "the answer to the shim"},
	{MonitorLeavePlace, Monitor, Create, "the end of the place among the machines that start"},
	{MonitorStream, Monitor, Create, "the connection of a stream"},
	{MonitorClaimed, Monitor, Create, "the answer to who claims the container"},
	{MonitorStart, Monitor, Start, "the agent's call to start the container"},
	{MonitorReady, Monitor, Start, "the agent's call to wait until the container is ready"},
	{MonitorExec, Monitor, Exec, "the agent's call to run a further process"},
	{MonitorSignal, Monitor, Kill, "the agent's call to send a signal"},
	{MonitorRemove, Monitor, Delete, "the agent's call to remove the container"},
	{MonitorUnplug, Monitor, Delete, "the end of the file server's device"},
	{MonitorKillVM, Monitor, Kill, "the end of the VM"},
	{MonitorCloseNetwork, Monitor, Kill, "the end of the taps"},
	{MonitorRemoveTap, Monitor, Kill, "the end of one tap"},
	{MonitorRemoveRedirect, Monitor, Kill, "the removal of the traffic control of an interface"},
	{MonitorExit, Monitor, Kill, "word of the exit code to the shim"},
	{MonitorEnd, Monitor, Kill, "the monitor's end"},

	{ShimAwait, Shim, Create, "what the shim is told"},
	{ShimBegin, Shim, Create, "all that the shim does"},
	{ShimLoopback, Shim, Create, "the loopback interface of a fresh network namespace"},
	{ShimSocket, Shim, Create, "the file server's socket"},
	{ShimOpenTree, Shim, Create, "the copy of a mount that is shared"},
	{ShimMount, Shim, Create, "the staging mount"},
	{ShimAttach, Shim, Create, "a mount in the staging mount"},
	{ShimSpawnServer, Shim, Create, "the file server's process"},
	{ShimCreate, Shim, Create, "the request to the monitor"},
	{ShimEnter, Shim, Create, "the mount namespace that engines see"},
	{ShimLeaveHost, Shim, Create, "the host's mounts, where the file server was started"},
	{ShimConsole, Shim, Create, "the terminal"},
	{ShimStreams, Shim, Create, "the connection of the streams"},
	{ShimReport, Shim, Create, "the report to the command"},
	{ShimExit, Shim, Kill, "the shim's end"},
	{ShimEnd, Shim, Kill, "the end of whatever is left in the shim's pid namespace"},
}

// SparePoints are the places in the life of a spare.
var SparePoints = []Point{
	{SpareFill, Filler, Create, "the look at which spares there are"},
	{SpareRecord, Filler, Create, "the record of a spare, before its monitor and its cgroup"},
	{SpareBrief, Filler, Create, "the request to a spare's new monitor"},
	{SpareStart, Monitor, Create, "the start of a spare's machine"},
	{SpareRehearse, Monitor, Create, "the rehearsal of a spare, its device plugged"},
	{SparePlug, Monitor, Create, "the device of a spare's idle share"},
	{SpareReady, Monitor, Create, "the record that a spare is ready"},
	{SpareClaim, Command, Create, "the claim on a spare"},
	{SpareHandOver, Command, Create, "the request to a claimed spare"},
	{SpareAdopt, Monitor, Create, "what a spare's guest is told when it is adopted"},
	{SpareServe, Monitor, Create, "the file server of a spare's idle share"},
	{SpareRefill, Command, Create, "the process that fills the pool again"},
}
