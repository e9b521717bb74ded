package main

// mutant is one protection that is taken out.
type mutant struct {
	name    string // what is protected
	file    string
	changes []change
	pkg     string // of the test
	run     string // its name; one that is found with -run, subtests by /
}

// change replaces a text that is there once.
type change struct{ old, new string }

const (
	sandboxDir = "virtcontainers/monitor/sandbox/"
	sandboxPkg = "./" + sandboxDir
	faultPkg   = "./tests/fault"
)

// mutants are in the order of docs/faults.md, which has the table that -list
// prints.
var mutants = []mutant{
	{"the record says created before the claim is made good", "virtcontainers/create.go", []change{
		{`	if err := step(ctx, failpoint.CreateRecordCreated); err != nil {`,
			`	if _, err := p.claim.Call(ctx, &monitor.Request{Op: monitor.OpClaimed, Container: p.ID}, nil); err != nil {
		return nil, err
	}
	if err := step(ctx, failpoint.CreateRecordCreated); err != nil {`},
		{`	if _, err := p.claim.Call(ctx, &monitor.Request{Op: monitor.OpClaimed, Container: p.ID}, nil); err != nil {
		return nil, fmt.Errorf("claim`, `	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("claim`},
	}, faultPkg, "TestUnclaimed/create.record-created"},
	{"an id is looked at after its operation has begun", "virtcontainers/create.go", []change{
		{`	op, err := r.beginCreate(ctx, o.ID)`, `	if err := r.makeRoom(ctx, p); err != nil {
		return nil, err
	}
	op, err := r.beginCreate(ctx, o.ID)`},
		{`	defer unwatch()
	if err := r.makeRoom(ctx, p); err != nil {`, `	defer unwatch()
	if err := ctx.Err(); err != nil {`},
	}, faultPkg, "TestRaces/two_creates_of_one_id"},
	{"who gets the file of an operation or a lock compares it with the one at the path", "state/lockfile.go", []change{
		{"if err == nil && current {\n\t\t\tl.sign(", "if err == nil && (current || true) {\n\t\t\tl.sign("},
	}, "./state", "TestOperationContention"},
	{"nobody waits for an operation where the answer is certain", "virtcontainers/operation.go", []change{
		{"	if _, err := r.allowed(ctx, id, op); err != nil {\n		return err\n	}\n", ""},
	}, faultPkg, "TestHang/create.await-shim/frozen=false"},
	{"a container exists, whatever is under way with it", "virtcontainers/operation.go", []change{
		{"if ok && !r.undecided(rec, st) {", "if ok && !r.undecided(rec, st) && st == \"\" {"},
	}, faultPkg, "TestHang/start.ask/frozen=true"},
	{"nobody waits for a guest while he holds a lock", "virtcontainers/pod.go", []change{
		{"		if err == nil || !notThere(err) {\n			return a, err\n		}\n", "		if err == nil {\n			p.claim, err = r.awaitClaim(ctx, a)\n		}\n		if err == nil || !notThere(err) {\n			return nil, err\n		}\n"},
	}, faultPkg, "TestLockOrder"},
	{"who looks after the templates does not wait for the making of one", "hypervisor/template/template.go", []change{
		{"	defer lock.Close()\n	s.collect()", "	defer lock.Path()\n	s.collect()"},
	}, "./hypervisor/template", "TestCollectWhileMaking"},
	{"the machine dies with its monitor (PDEATHSIG)", "hypervisor/qemu/process.go", []change{
		{"		Pdeathsig:  syscall.SIGKILL,\n", ""},
	}, "./hypervisor/qemu", "TestStartGivesQEMUNothingElse"},
	{"everything is given back before the exit is told", sandboxDir + "end.go", []change{
		{"	step(\"release\", c.release)\n", ""},
		{"	step(\"wait for the shim\", func(context.Context) { c.waitShim() })\n", "	step(\"wait for the shim\", func(context.Context) { c.waitShim() })\n	step(\"release\", c.release)\n"},
	}, sandboxPkg, "TestTeardownBeforeExit"},
	{"a record's text is on the disk before its name is (fsync)", "state/record.go", []change{
		{"err = f.Sync()", "err = nil"},
	}, faultPkg, "TestPowerCut"},
	{"a tombstone ends the context of the operation", "state/operation.go", []change{
		{"				cancel(ErrEvicted)\n", ""},
	}, faultPkg, "TestDeleteDuringCreate"},
	{"a tombstone is for one operation: the next one truncates the file", "state/lockfile.go", []change{
		{"os.O_WRONLY|os.O_TRUNC|", "os.O_WRONLY|"},
	}, "./state", "TestEvictedBefore"},
	{"a process is a pid and its start time", "state/process.go", []change{
		{"st.start != p.StartTime || st.ended()", "st.ended()"},
	}, "./state", "TestProcessReusedPid"},
	{"a record with what is unknown is not read", "state/record.go", []change{
		{"	d.DisallowUnknownFields()\n", ""},
	}, "./state", "TestContainerDamaged"},
	{"a record of an earlier boot names no process", "state/process.go", []change{
		{"	if err != nil || recorded == boot {", "	if err != nil || recorded == boot || boot != \"\" {"},
	}, faultPkg, "TestReboot"},
	{"a namespace at the same path may be another one", "virtcontainers/adopt.go", []change{
		{"resourcecache.FileID{Dev: st.Dev, Ino: st.Ino}", "resourcecache.FileID{}"},
	}, faultPkg, "TestUnclaimed/another_network_namespace_at_the_same_path"},
	{"doctor ends no machine of another root", "virtcontainers/doctor_processes.go", []change{
		{"		case d.r.Store.Root():\n", "		default:\n"},
	}, "./virtcontainers", "TestOrphanedMachine"},
	{"the root's path may lead another process to another folder", "virtcontainers/doctor_processes.go", []change{
		{"err == nil && os.SameFile(own, its)", "err == nil && (own != its)"},
	}, "./virtcontainers", "TestSees"},
	{"a machine that is kept is not handed to another request", sandboxDir + "keep.go", []change{
		{" || key != s.cfg.Key", ""},
	}, faultPkg, "TestUnclaimed/another_request"},
	{"room that is kept in a pod is not handed to another request", sandboxDir + "reserve.go", []change{
		{"r.key == key && s.stepRoom(r", "s.stepRoom(r"},
	}, sandboxPkg, "TestRoomOfAnother"},
	{"room that nobody waits for gives way", sandboxDir + "grow.go", []change{
		{"	for !z.enough() && giveWay() {", "	for !z.enough() && z.idle && giveWay() {"},
	}, sandboxPkg, "TestRoomGivesWay"},
	{"room that nobody has come for is given up", sandboxDir + "reserve.go", []change{
		{"		s.evictRoom(r, cause)", "		s.stepRoom(r, cause)"},
	}, sandboxPkg, "TestRoomExpires"},
	{"a machine that dies is never exit code 0", sandboxDir + "process.go", []change{
		{"			p.exit.Code = exitVMDied\n", ""},
	}, sandboxPkg, "TestDeathOfVMIsExit137"},
	{"KILL overtakes a TERM that waits", sandboxDir + "end.go", []change{
		{"	case <-c.released:\n		return nil\n	case <-c.killed: // a KILL has overtaken\n", "	case <-make(chan struct{}):\n"},
	}, sandboxPkg, "TestKillPreemptsTerm"},
	{"KILL needs no answer from the guest", sandboxDir + "end.go", []change{
		{"			case <-ctx.Done():\n				err = fmt.Errorf(\"killed processes", "			case <-make(chan struct{}):\n				err = fmt.Errorf(\"killed processes"},
		{"		err := c.signal(ctx, \"\", unix.SIGKILL, true)", "		err := c.signal(context.WithoutCancel(ctx), \"\", unix.SIGKILL, true)"},
	}, sandboxPkg, "TestKillNeedsNoAnswerFromGuest"},
	{"machines have their turns in order", "hypervisor/queue/queue.go", []change{
		{"		if before != \"\" {\n", "		if false && before != \"\" {\n"},
	}, "./hypervisor/queue", "TestNewcomer"},
	{"as many machines start as there are places", sandboxDir + "room.go", []change{
		{"b.hv.Starts()", "b.hv.Starts()+100"},
	}, faultPkg, "TestTurns"},
	{"a boot's clock stands still where the host has no CPU", sandboxDir + "patience.go", []change{
		{"		spent -= min(spent, p.held())\n", ""},
	}, sandboxPkg, "TestPatience"},
	{"a boot that makes progress has its time anew", sandboxDir + "patience.go", []change{
		{"				seen, idle = n, 0\n", "				seen = n\n"},
	}, sandboxPkg, "TestPatience/progress_for_ever"},
	{"a machine does not start where memory is short", sandboxDir + "room.go", []change{
		{"	return n.check(b.hv.MemoryReserve)\n", "	return n.check(0)\n"},
	}, faultPkg, "TestNoRoom"},
	{"memory is not plugged where it is short", sandboxDir + "grow.go", []change{
		{"roomToGrow(mib, hv.MemoryReserve)", "roomToGrow(mib, 0)"},
	}, sandboxPkg, "TestNoRoomToGrow"},
	{"who was killed is in nobody's way", "hypervisor/queue/queue.go", []change{
		{"		dead.end()\n", "		if dead.path != \"\" {\n			return path, nil\n		}\n"},
	}, "./hypervisor/queue", "TestKilled"},
	{"who is stopped is in nobody's way for long", "hypervisor/queue/queue.go", []change{
		{"		if q.wait(ctx, held...) {\n			return &Place{}, nil\n", "		if q.wait(ctx, held...) {\n			return nil, errHeld\n"},
	}, "./hypervisor/queue", "TestFrozen"},
	{"a guest's clock measures no deadline of the host's", "agent/client/calls.go", []change{
		{"guestTime = 10", "guestTime = 1"},
	}, "./agent/client", "TestGuestTime"},
	{"the image store names what it needs under the lock that keeps the collector out", "image/store/lease.go", []change{
		{"	defer meta.release()\n	if err := l.name(rs); err != nil {", "	meta.release()\n	if err := l.name(rs); err != nil {"},
	}, "./image/store", "TestNamingAndLookingExcludeTheCollector"},
	{"the image store names what it needs before it looks", "image/store/lease.go", []change{
		{"	if err := l.name(rs); err != nil {\n		return nil, err\n	}\n	return l.s.look(rs)\n",
			"	there, err := l.s.look(rs)\n	return there, errors.Join(err, l.name(rs))\n"},
	}, "./image/store", "TestNamingAndLookingExcludeTheCollector"},
	{"a blob is on the disk before its name is", "image/store/blob.go", []change{
		{`	if err := l.s.syncFile("blob", p.file); err != nil {`, `	if err := error(nil); err != nil {`},
	}, "./tests/images", "TestPowerCutAtEveryStep"},
	{"a layer is on the disk before its name is", "image/store/layer.go", []change{
		{`	if err := l.s.syncFile("layer", f); err != nil {`, `	if err := error(nil); err != nil {`},
	}, "./tests/images", "TestPowerCutAtEveryStep"},
	{"a registry's silence begins anew with each read", "image/registry/transport.go", []change{
		{"	w.timer.Reset(w.timeout)\n", ""},
	}, "./image/registry", "TestTrickle"},
	{"a device has an interrupt", "hypervisor/qemu/share.go", []change{
		{"	case taken+interrupts > cpus*interruptsPerCPU:", "	case cpus == 0:"},
	}, "./hypervisor/qemu", "TestFreeSlot"},
	{"a file server is attached only where it can do what was offered", "hypervisor/vhostuser/relay.go", []change{
		{"	if err := can.has(r.offer.chosen(r.said.protocol)); err != nil {", "	if err := can.has(Offer{}); err != nil {"},
	}, "./hypervisor/vhostuser", "TestUnfitBackEnd"},
	{"QEMU hears of a file server only what it awaits", "hypervisor/vhostuser/relay.go", []change{
		{"			err = m.checkAnswer(to)\n", ""},
	}, "./hypervisor/vhostuser", "TestHostileBackEnd"},
	{"an idle share keeps no more regions of memory than were offered", "hypervisor/vhostuser/record.go", []change{
		{"if uint64(len(r.regions)) >= o.slots {", "if uint64(len(r.regions)) >= 2*o.slots {"},
	}, "./hypervisor/vhostuser", "TestHostileMachine"},
}
