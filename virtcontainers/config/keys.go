package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml" // the reference parser of its language in Go
)

// imageTable is the image service's own affair: it is not looked into here.
const imageTable = "image"

// key is one key of the file.
type key struct {
	name string // table.key
	value
}

// value is where a key's value goes, and which values it takes.
type value struct {
	want string         // for the user
	set  func(any) bool // false for a value that is not wanted
}

// keys lists all keys of the file, with their places in c.
func (c *Config) keys() []key {
	r, h, n, s := &c.Runtime, &c.Hypervisor, &c.Network, &c.Share
	return []key{
		{"runtime.stop_grace", grace(&r.StopGrace)},
		{"runtime.on_term", oneOf(&r.OnTerm, OnTermStop, OnTermSignal)},
		{"runtime.annotations", someOf(&r.Annotations, GraceAnnotation)},
		{"runtime.create_timeout", timeout(&r.CreateTimeout)},
		{"runtime.unclaimed_timeout", timeout(&r.UnclaimedTimeout)},
		{"runtime.call_timeout", timeout(&r.CallTimeout)},
		{"runtime.kill_timeout", timeout(&r.KillTimeout)},
		{"runtime.flush_timeout", timeout(&r.FlushTimeout)},
		{"runtime.teardown_timeout", timeout(&r.TeardownTimeout)},

		{"hypervisor.qemu", path(&h.QEMU)},
		{"hypervisor.accel", oneOf(&h.Accel, AccelAuto, AccelKVM, AccelTCG)},
		{"hypervisor.guest_image", path(&h.GuestImage)},
		{"hypervisor.kernel", path(&h.Kernel)},
		{"hypervisor.cpus", number(&h.CPUs, 1, 255)},
		{"hypervisor.memory", memory(&h.Memory, 128*MiB)},
		{"hypervisor.sizing", oneOf(&h.Sizing, SizingLimits, SizingStatic)},
		{"hypervisor.max_cpus", number(&h.MaxCPUs, 0, 255)},
		{"hypervisor.max_memory", optionalMemory(&h.MaxMemory, 128*MiB)},
		{"hypervisor.memory_overhead", optionalMemory(&h.MemoryOverhead, 64*MiB)},
		{"hypervisor.memory_reserve", optionalMemory(&h.MemoryReserve, 1*MiB)},
		{"hypervisor.concurrent_starts", number(&h.ConcurrentStarts, 0, 1000)},
		{"hypervisor.hotplug_slots", number(&h.HotplugSlots, 1, 24)},
		{"hypervisor.boot_timeout", timeout(&h.BootTimeout)},
		{"hypervisor.template", oneOf(&h.Template, TemplateAuto, TemplateOff)},
		{"hypervisor.channel", oneOf(&h.Channel, ChannelAuto, ChannelVsock, ChannelSerial)},
		{"hypervisor.spares", number(&h.Spares, 0, 16)},
		{"hypervisor.spare_timeout", timeout(&h.SpareTimeout)},
		{"hypervisor.spare_delay", delay(&h.SpareDelay)},
		{"hypervisor.cache_dir", folder(&h.CacheDir)},

		{"network.mode", oneOf(&n.Mode, NetworkTC, NetworkMacvtap)},
		{"network.queues", number(&n.Queues, 1, 255)},
		{"network.vhost", oneOf(&n.Vhost, VhostAuto, VhostOff)},

		{"share.virtiofsd", path(&s.Virtiofsd)},
		{"share.cache", oneOf(&s.Cache, CacheAuto, CacheAlways, CacheNever)},
	}
}

// Parse reads the text of a configuration file over the defaults.
func Parse(text string) (*Config, error) {
	var file map[string]any
	if _, err := toml.Decode(text, &file); err != nil {
		if p, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, fmt.Errorf("line %d: %s", p.Position.Line, p.Message)
		}
		return nil, err
	}
	c := Default()
	known := map[string]map[string]value{imageTable: {}}
	for _, k := range c.keys() {
		table, name, _ := strings.Cut(k.name, ".")
		if known[table] == nil {
			known[table] = map[string]value{}
		}
		known[table][name] = k.value
	}
	for _, name := range slices.Sorted(maps.Keys(file)) {
		if known[name] == nil {
			return nil, fmt.Errorf("unknown key %s: expected the tables %s", toml.Key{name}, list(known))
		}
		table, ok := file[name].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s = %s: expected a table", name, show(file[name]))
		}
		if name == imageTable {
			continue
		}
		if err := setTable(name, table, known[name]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// setTable sets the values of one table of the file.
func setTable(table string, file map[string]any, known map[string]value) error {
	for _, name := range slices.Sorted(maps.Keys(file)) {
		v, ok := known[name]
		if !ok {
			return fmt.Errorf("unknown key %s: expected %s", toml.Key{table, name}, list(known))
		}
		if !v.set(file[name]) {
			return fmt.Errorf("%s.%s = %s: expected %s", table, name, show(file[name]), v.want)
		}
	}
	return nil
}

func list[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

// show makes one line of a value.
func show(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return strings.Join(strings.Fields(fmt.Sprint(v)), " ")
}

const wantTime = `a time such as "10s"`

func grace(d *Duration) value {
	return value{wantTime + `, or "infinity"`, func(v any) bool {
		s, ok := v.(string)
		return ok && d.UnmarshalText([]byte(s)) == nil
	}}
}

func timeout(d *Duration) value {
	return value{wantTime + ", over 0", func(v any) bool {
		s, ok := v.(string)
		return ok && d.UnmarshalText([]byte(s)) == nil && !d.Infinite() && d.Std() > 0
	}}
}

// maxDelay bounds for how long a process waits that has nothing else to do.
const maxDelay = time.Minute

func delay(d *Duration) value {
	return value{wantTime + ", at most " + maxDelay.String(), func(v any) bool {
		s, ok := v.(string)
		return ok && d.UnmarshalText([]byte(s)) == nil && d.Std() <= maxDelay
	}}
}

func oneOf[T ~string](t *T, values ...T) value {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = strconv.Quote(string(v))
	}
	return value{strings.Join(names, " or "), func(v any) bool {
		s, ok := v.(string)
		*t = T(s)
		return ok && slices.Contains(values, *t)
	}}
}

func someOf(list *[]string, values ...string) value {
	return value{"an array with any of " + strings.Join(values, ", "), func(v any) bool {
		items, ok := v.([]any)
		*list = make([]string, len(items))
		for i, item := range items {
			s, isText := item.(string)
			ok = ok && isText && slices.Contains(values, s)
			(*list)[i] = s
		}
		return ok
	}}
}

func path(p *string) value {
	return value{`an absolute path, or "" for the usual places`, func(v any) bool {
		s, ok := v.(string)
		*p = s
		return ok && (s == "" || s[0] == '/') && !strings.ContainsRune(s, 0)
	}}
}

func folder(p *string) value {
	return value{"an absolute path", func(v any) bool {
		return path(p).set(v) && *p != ""
	}}
}

func number(n *int, low, high int) value {
	return value{fmt.Sprintf("a number from %d to %d", low, high), func(v any) bool {
		i, ok := v.(int64)
		*n = int(i)
		return ok && int64(low) <= i && i <= int64(high)
	}}
}

func memory(m *Size, low Size) value {
	return value{fmt.Sprintf("an amount of memory such as \"256M\" or \"1G\", at least %s", low), func(v any) bool {
		s, ok := v.(string)
		return ok && m.UnmarshalText([]byte(s)) == nil && *m >= low
	}}
}

// optionalMemory takes "" as well, for 0.
func optionalMemory(m *Size, low Size) value {
	v := memory(m, low)
	v.want += `, or ""`
	set := v.set
	v.set = func(v any) bool {
		*m = 0
		return v == "" || set(v)
	}
	return v
}
