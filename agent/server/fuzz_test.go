package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/crun"
)

// refusing is a Runtime that runs nothing.
type refusing struct{}

var errRefusing = errors.New("nothing is run")

func (refusing) Create(context.Context, crun.Container, string, crun.Process) (*crun.Started, error) {
	return nil, errRefusing
}

func (refusing) Exec(context.Context, crun.Container, []byte, crun.Process) (*crun.Started, error) {
	return nil, errRefusing
}

func (refusing) Start(context.Context, crun.Container) error          { return errRefusing }
func (refusing) Update(context.Context, crun.Container, []byte) error { return errRefusing }
func (refusing) Forget(crun.Container) error                          { return nil }

// FuzzRequests calls each method with requests as they could come out of a
// broken monitor: none may panic, hang, or leave anything in the guest but in
// the container's own folder, and that only until it is removed.
func FuzzRequests(f *testing.F) {
	add := func(method byte, m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(method, b)
	}
	good := []byte(`{"process":{"args":["x"],"cwd":"/","user":{"uid":1}},"root":{"path":"rootfs"},"mounts":[{"destination":"/a/b","type":"bind","options":["bind"],"source":"m/0"}]}`)
	add(0, &api.CreateContainerRequest{Container: "c", ShareTag: "share", Spec: good, Stdio: &api.Stdio{Stdout: true}})
	add(0, &api.CreateContainerRequest{Container: "../../x", ShareTag: "..", Spec: good})
	add(0, &api.CreateContainerRequest{Container: "c", Root: &api.LayeredRoot{Layers: []string{"a"}, Upper: "b"}, Spec: good})
	add(1, &api.ExecProcessRequest{Container: "c", Process: "p", Spec: []byte(`{"args":["x"]}`), Stdio: &api.Stdio{Terminal: true}})
	add(2, &api.SignalProcessRequest{Container: "c", Signal: 9, All: true})
	add(3, &api.ProcessRequest{Container: "c", Process: "p"})
	add(4, &api.ResizeConsoleRequest{Container: "c", Width: 80, Height: 1 << 31})
	add(5, &api.ContainerRequest{Container: "c"})
	add(6, &api.UpdateContainerRequest{Container: "c", Resources: []byte(`{}`)})
	add(7, &api.WaitOOMRequest{Container: "c"})
	add(8, &api.OnlineResourcesRequest{Cpus: 1 << 31})
	add(9, &api.ConfigureNetworkRequest{})
	add(14, &api.ContainerRequest{Container: "c"})
	f.Fuzz(func(t *testing.T, method byte, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		parent := t.TempDir()
		dir := filepath.Join(parent, "containers")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s := New(Config{
			Dir: dir, Shares: &fakeShares{mounted: map[string]string{}}, Log: discard(), Runtime: refusing{}, Machine: fakeMachine{},
			CgroupsPath: func(name string) string { return "/" + name },
			Group:       func(string) Group { return fakeGroup{filepath.Join(parent, "none")} },
			Ready:       func(context.Context) error { return nil },
		})
		call(ctx, service{s}, method, body)
		s.mu.Lock()
		left := len(s.containers)
		s.mu.Unlock()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 || left != 0 {
			t.Errorf("left behind: %d containers, %v, %v", left, entries, err)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Errorf("made outside of the folder: %v, %v", entries, err)
		}
	})
}

// call calls a method with a request of which body is the encoding.
func call(ctx context.Context, v service, method byte, body []byte) {
	switch method % 15 {
	case 0:
		request(ctx, body, &api.CreateContainerRequest{}, v.CreateContainer)
	case 1:
		request(ctx, body, &api.ExecProcessRequest{}, v.ExecProcess)
	case 2:
		request(ctx, body, &api.SignalProcessRequest{}, v.SignalProcess)
	case 3:
		request(ctx, body, &api.ProcessRequest{}, v.WaitProcess)
	case 4:
		request(ctx, body, &api.ResizeConsoleRequest{}, v.ResizeConsole)
	case 5:
		request(ctx, body, &api.ContainerRequest{}, v.RemoveContainer)
	case 6:
		request(ctx, body, &api.UpdateContainerRequest{}, v.UpdateContainer)
	case 7:
		request(ctx, body, &api.WaitOOMRequest{}, v.WaitOOM)
	case 8:
		request(ctx, body, &api.OnlineResourcesRequest{}, v.OnlineResources)
	case 9:
		request(ctx, body, &api.ConfigureNetworkRequest{}, v.ConfigureNetwork)
	case 10:
		request(ctx, body, &api.ContainerRequest{}, v.StartContainer)
	case 11:
		request(ctx, body, &api.ContainerRequest{}, v.PauseContainer)
	case 12:
		request(ctx, body, &api.ContainerRequest{}, v.ContainerStats)
	case 13:
		request(ctx, body, &api.ContainerRequest{}, v.ListProcesses)
	case 14:
		request(ctx, body, &api.ContainerRequest{}, v.WaitReady)
	}
}

func request[Req proto.Message, Resp any](ctx context.Context, body []byte, req Req, method func(context.Context, Req) (Resp, error)) {
	if proto.Unmarshal(body, req) == nil {
		method(ctx, req)
	}
}
