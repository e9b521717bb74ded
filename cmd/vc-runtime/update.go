package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

func (p *program) updateCommand() *cli.Command {
	text := func(name, usage string) cli.Flag { return &cli.StringFlag{Name: name, Usage: usage} }
	obsolete := func(name string) cli.Flag {
		return &cli.StringFlag{Name: name, Usage: "(obsoleted; do not use)", Hidden: true}
	}
	return &cli.Command{
		Name:      "update",
		Usage:     "update container resource constraints",
		ArgsUsage: `<container-id>`,
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "resources", Aliases: []string{"r"},
				Usage: "path to the file containing the resources to update or '-' to read from the standard input; all other options are ignored then",
			},
			&cli.IntFlag{Name: "blkio-weight", Usage: "Specifies per cgroup weight, range is from 10 to 1000"},
			text("cpu-period", "CPU CFS period to be used for hardcapping (in usecs). 0 to use system default"),
			text("cpu-quota", "CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period"),
			text("cpu-burst", "CPU CFS hardcap burst limit (in usecs). Allowed accumulated cpu time additionally for burst a given period"),
			text("cpu-share", "CPU shares (relative weight vs. other containers)"),
			text("cpu-rt-period", "CPU realtime period to be used for hardcapping (in usecs). 0 to use system default"),
			text("cpu-rt-runtime", "CPU realtime hardcap limit (in usecs). Allowed cpu time in a given period"),
			text("cpuset-cpus", "CPU(s) to use"),
			text("cpuset-mems", "Memory node(s) to use"),
			text("cpu-idle", "set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE"),
			obsolete("kernel-memory"),
			obsolete("kernel-memory-tcp"),
			text("memory", "Memory limit (in bytes)"),
			text("memory-reservation", "Memory reservation or soft_limit (in bytes)"),
			text("memory-swap", "Total memory usage (memory + swap); set '-1' to enable unlimited swap"),
			&cli.IntFlag{Name: "pids-limit", Usage: "Maximum number of pids allowed in the container"},
			text("l3-cache-schema", "not available: a virtual machine is in no Intel RDT group"),
			text("mem-bw-schema", "not available: a virtual machine is in no Intel RDT group"),
		},
		Before: arguments(1, 1),
		Action: p.with(func(c *cli.Context, rt verbs) error {
			resources, err := p.newResources(c)
			if err != nil {
				return err
			}
			return rt.Update(c.Context, c.Args().First(), resources)
		}),
	}
}

// maxResources bounds the file of --resources, in bytes.
const maxResources = 1 << 20

// newResources gives the OCI resources object that the flags ask for, as JSON.
func (p *program) newResources(c *cli.Context) ([]byte, error) {
	switch path := c.String("resources"); path {
	case "":
		return flagResources(c)
	case "-":
		return readResources(p.stdin)
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readResources(f)
	}
}

// readResources reads one JSON object. What follows it is ignored, as by runc.
func readResources(r io.Reader) ([]byte, error) {
	var object json.RawMessage
	err := json.NewDecoder(io.LimitReader(r, maxResources)).Decode(&object)
	if err != nil {
		return nil, fmt.Errorf("read the resources: %w", err)
	}
	return object, nil
}

func flagResources(c *cli.Context) ([]byte, error) {
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if c.IsSet(name) {
			return nil, fmt.Errorf("--%s: Intel RDT is not available for virtual machines", name)
		}
	}
	cpu := &specs.LinuxCPU{Cpus: c.String("cpuset-cpus"), Mems: c.String("cpuset-mems")}
	memory := &specs.LinuxMemory{}
	r := specs.LinuxResources{CPU: cpu, Memory: memory}
	err := errors.Join(
		setNumber(c, "cpu-period", &cpu.Period, parseUint),
		setNumber(c, "cpu-quota", &cpu.Quota, parseInt),
		setNumber(c, "cpu-burst", &cpu.Burst, parseUint),
		setNumber(c, "cpu-share", &cpu.Shares, parseUint),
		setNumber(c, "cpu-rt-period", &cpu.RealtimePeriod, parseUint),
		setNumber(c, "cpu-rt-runtime", &cpu.RealtimeRuntime, parseInt),
		setNumber(c, "cpu-idle", &cpu.Idle, parseInt),
		setNumber(c, "memory", &memory.Limit, parseMemory),
		setNumber(c, "memory-reservation", &memory.Reservation, parseMemory),
		setNumber(c, "memory-swap", &memory.Swap, parseMemory),
	)
	if err != nil {
		return nil, err
	}
	if limit := c.Int("pids-limit"); limit != 0 {
		n := int64(limit)
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
	if weight := c.Int("blkio-weight"); weight != 0 {
		if weight < 0 || weight > math.MaxUint16 {
			return nil, fmt.Errorf("invalid value for blkio-weight: %d: expected 10 to 1000", weight)
		}
		n := uint16(weight)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &n}
	}
	return json.Marshal(r)
}

func parseUint(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) }
func parseInt(text string) (int64, error)   { return strconv.ParseInt(text, 10, 64) }

// parseMemory reads an amount of memory as runc does: 10485760, 10m, -1 for
// unlimited.
func parseMemory(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	return units.RAMInBytes(text)
}

// setNumber reads a flag, where it is given, into a field.
func setNumber[T any](c *cli.Context, flag string, field **T, parse func(string) (T, error)) error {
	text := c.String(flag)
	if text == "" {
		return nil
	}
	n, err := parse(text)
	if err != nil {
		return fmt.Errorf("invalid value for %s: %w", flag, err) // runc's text
	}
	*field = &n
	return nil
}
