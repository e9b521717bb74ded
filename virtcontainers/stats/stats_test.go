package stats

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// files are those of a container in a guest.
var files = Files{
	"cpu.stat":              "usage_usec 2500\nuser_usec 1500\nsystem_usec 1000\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
	"cpuset.cpus.effective": "0-1,3\n",
	"cpuset.mems.effective": "0\n",
	"memory.current":        "4096\n",
	"memory.max":            "15728640\n",
	"memory.peak":           "8192\n",
	"memory.events":         "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n",
	"memory.stat":           "anon 1024\nfile 2048\n",
	"memory.swap.current":   "5\n",
	"memory.swap.max":       "10\n",
	"pids.current":          "2\n",
	"pids.max":              "7\n",
	"io.stat":               "254:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
	"hugetlb.2MB.current":   "2097152\n",
	"hugetlb.2MB.events":    "max 6\n",
}

// The JSON is what runc 1.1 prints of a cgroup v2 with these files.
func TestJSON(t *testing.T) {
	const want = `{"type":"stats","id":"c","data":{` +
		`"cpu":{"usage":{"total":2500000,"kernel":1000000,"user":1500000},"throttling":{"periods":4,"throttledPeriods":3,"throttledTime":2000}},` +
		`"cpuset":{"cpus":[0,1,3],"cpu_exclusive":0,"mems":[0],"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,` +
		`"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},` +
		`"memory":{"cache":2048,"usage":{"limit":15728640,"usage":4096,"max":8192,"failcnt":9},"swap":{"limit":15728650,"usage":4101,"failcnt":0},` +
		`"kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0},"raw":{"anon":1024,"file":2048}},` +
		`"pids":{"current":2,"limit":7},` +
		`"blkio":{"ioServiceBytesRecursive":[{"major":254,"minor":16,"op":"Read","value":10},{"major":254,"minor":16,"op":"Write","value":20}],` +
		`"ioServicedRecursive":[{"major":254,"minor":16,"op":"Read","value":1},{"major":254,"minor":16,"op":"Write","value":2}]},` +
		`"hugetlb":{"2MB":{"usage":2097152,"failcnt":6}},"intel_rdt":{},` +
		`"network_interfaces":[{"Name":"eth0","RxBytes":7,"RxPackets":0,"RxErrors":0,"RxDropped":0,"TxBytes":0,"TxPackets":0,"TxErrors":0,"TxDropped":0}]}}`
	got, err := json.Marshal(Event{Type: "stats", ID: "c", Data: files.Stats([]Interface{{Name: "eth0", RxBytes: 7}})})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestOOMEvent(t *testing.T) {
	got, err := json.Marshal(Event{Type: "oom", ID: "c"})
	if err != nil || string(got) != `{"type":"oom","id":"c"}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestUnlimited(t *testing.T) {
	s := Files{"memory.max": "max\n", "memory.swap.max": "max\n", "pids.max": "max\n"}.Stats(nil)
	if s.Memory.Usage.Limit != unlimited || s.Memory.Swap.Limit != unlimited || s.Pids.Limit != 0 {
		t.Errorf("%+v", s)
	}
}

// FuzzStats: the files come from a guest that need not be ours any more.
func FuzzStats(f *testing.F) {
	f.Add("cpuset.cpus.effective", "0-65535,0-65535")
	f.Add("io.stat", "1:2 rbytes= wbytes\n:\n1")
	f.Add("hugetlb..current", "max")
	f.Add("memory.swap.max", "18446744073709551614")
	f.Fuzz(func(t *testing.T, name, content string) {
		s := Files{name: content, "memory.max": "max"}.Stats(nil)
		if len(s.CPUSet.CPUs) > maxListed || len(s.CPUSet.Mems) > maxListed {
			t.Errorf("%d CPUs", len(s.CPUSet.CPUs))
		}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
	})
}
