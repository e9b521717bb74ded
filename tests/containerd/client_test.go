package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// callLimit is for one call of the CRI; under emulation, and beside others.
const callLimit = 2 * time.Minute

// dial connects to the CRI.
func dial() (cri.RuntimeServiceClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return cri.NewRuntimeServiceClient(conn), conn, nil
}

// warmUpCRI runs a pod once. The network is ready a moment after the daemon.
func warmUpCRI(s *testenv.Suite) error {
	client, conn, err := dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	for {
		st, err := client.Status(ctx, &cri.StatusRequest{})
		if err == nil && allTrue(st.Status.Conditions) {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the CRI is not ready: %v, %w", st, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	pod, err := client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig(s, "warm-up"), RuntimeHandler: handler})
	if err != nil {
		return err
	}
	_, err = client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	_, removed := client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	return errors.Join(err, removed)
}

func allTrue(conditions []*cri.RuntimeCondition) bool {
	for _, c := range conditions {
		if !c.Status {
			return false
		}
	}
	return len(conditions) > 0
}

func podConfig(s *testenv.Suite, name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "test", Uid: s.Prefix + "-" + name},
		Hostname:     name + "-host",
		LogDirectory: filepath.Join(s.Dir, "logs", name),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"192.0.2.53"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/" + s.Prefix,
			Sysctls:      map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "0"},
		},
	}
}

// pod is a pod of the CRI and its containers.
type pod struct {
	*testenv.Env
	cri.RuntimeServiceClient
	ctx    context.Context
	config *cri.PodSandboxConfig
	id     string
}

// newPod runs a pod, which is removed when the test ends.
func newPod(t *testing.T, change func(*cri.PodSandboxConfig)) *pod {
	t.Helper()
	e := suite.New(t)
	e.NeedVM()
	from := logSize(t)
	client, conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	p := &pod{Env: e, RuntimeServiceClient: client, ctx: t.Context(), config: podConfig(e.Suite, name)}
	if change != nil {
		change(p.config)
	}
	if err := os.MkdirAll(p.config.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	res := call(p, p.RunPodSandbox, &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: handler})
	p.id = res.PodSandboxId
	t.Cleanup(func() {
		p.ctx = context.Background() // the test's has ended
		call(p, p.StopPodSandbox, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		call(p, p.RemovePodSandbox, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		conn.Close()
		noComplaint(t, from)
	})
	return p
}

// call makes a call of the CRI, which must succeed.
func call[Req, Res any](p *pod, method func(context.Context, *Req, ...grpc.CallOption) (*Res, error), req *Req) *Res {
	p.Helper()
	res, err := try(p, method, req)
	if err != nil {
		p.Fatalf("%T: %v\nthe log: %s", req, err, daemon.Tail())
	}
	return res
}

// try makes a call of the CRI.
func try[Req, Res any](p *pod, method func(context.Context, *Req, ...grpc.CallOption) (*Res, error), req *Req) (*Res, error) {
	ctx, cancel := context.WithTimeout(p.ctx, callLimit)
	defer cancel()
	return method(ctx, req)
}

// container creates and starts a container.
func (p *pod) container(name string, change func(*cri.ContainerConfig), command ...string) string {
	p.Helper()
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: image},
		Command:  command,
		LogPath:  name + ".log",
		Linux:    &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: p.namespaces()}},
	}
	if change != nil {
		change(config)
	}
	id := call(p, p.CreateContainer, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}).ContainerId
	call(p, p.StartContainer, &cri.StartContainerRequest{ContainerId: id})
	return id
}

// namespaces are those of the pod, which the kubelet repeats for each container.
func (p *pod) namespaces() *cri.NamespaceOption {
	if sc := p.config.Linux.SecurityContext; sc != nil && sc.NamespaceOptions != nil {
		return sc.NamespaceOptions
	}
	return &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
}

// sh gives the output of a script that ExecSync runs in a container.
func (p *pod) sh(id, script string) string {
	p.Helper()
	res := call(p, p.ExecSync, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}})
	if res.ExitCode != 0 {
		p.Fatalf("%s: exit code %d: %s", script, res.ExitCode, res.Stderr)
	}
	return strings.TrimSuffix(string(res.Stdout), "\n")
}

func (p *pod) status(id string) *cri.ContainerStatus {
	p.Helper()
	return call(p, p.ContainerStatus, &cri.ContainerStatusRequest{ContainerId: id}).Status
}

// stop stops a container, which must be exited right after that.
func (p *pod) stop(id string, seconds int64, code int32) {
	p.Helper()
	call(p, p.StopContainer, &cri.StopContainerRequest{ContainerId: id, Timeout: seconds})
	if st := p.status(id); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != code {
		p.Errorf("right after StopContainer: %s, exit code %d, expected EXITED and %d", st.State, st.ExitCode, code)
	}
}

func (p *pod) remove(id string) {
	p.Helper()
	call(p, p.RemoveContainer, &cri.RemoveContainerRequest{ContainerId: id})
}
