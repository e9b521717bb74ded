package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GraceAnnotation sets a container's grace, where the configuration allows it.
const GraceAnnotation = "io.vc-runtime.stop.grace"

// timeoutAnnotation is how podman says how long it will wait for a stop
// (systemd.service(5), TimeoutStopSec; runc's systemd properties).
const timeoutAnnotation = "org.systemd.property.TimeoutStopUSec"

// periodAnnotation is how the kubelet says how long it means to wait, in
// seconds (k8s.io/kubernetes/pkg/kubelet/kuberuntime, labels.go). CRI-O passes
// it on, containerd where it is told to.
const periodAnnotation = "io.kubernetes.pod.terminationGracePeriod"

// Grace is how long a container has after TERM until it is killed: the first
// that is set of the container's annotation, podman's, the kubelet's, and
// stop_grace.
func (c *Config) Grace(annotations map[string]string) (Duration, error) {
	if text, ok := annotations[GraceAnnotation]; ok && slices.Contains(c.Runtime.Annotations, GraceAnnotation) {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil {
			return d, fmt.Errorf("annotation %s: %w", GraceAnnotation, err)
		}
		return d, nil
	}
	if text, ok := annotations[timeoutAnnotation]; ok {
		return parseTimeoutStop(text)
	}
	if text, ok := annotations[periodAnnotation]; ok {
		seconds, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return Duration{}, fmt.Errorf("annotation %s: %q: expected seconds", periodAnnotation, text)
		}
		return durationOf(time.Duration(seconds) * time.Second), nil
	}
	return c.Runtime.StopGrace, nil
}

// parseTimeoutStop reads a GVariant "uint64 N" in microseconds. Without its
// type the number is taken all the same; the largest one is systemd's infinity.
func parseTimeoutStop(text string) (Duration, error) {
	fields := strings.Fields(text)
	if len(fields) == 2 && fields[0] == "uint64" {
		fields = fields[1:]
	}
	if len(fields) == 1 {
		if fields[0] == "infinity" {
			return infinity, nil
		}
		if usec, err := strconv.ParseUint(fields[0], 10, 64); err == nil {
			return durationOf(time.Duration(min(usec, uint64(forever/time.Microsecond)+1)) * time.Microsecond), nil
		}
	}
	return Duration{}, fmt.Errorf("annotation %s: %q: expected \"uint64 N\", microseconds", timeoutAnnotation, text)
}
