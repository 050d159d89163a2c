package aliquot

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	containerapi "github.com/docker/docker/api/types/container"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
)

// stock is Nomad's own docker driver in the version that is embedded.
func stock(t *testing.T) *shipped {
	t.Helper()
	// It removes its containers after the test's own context has ended.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	s := &shipped{DriverPlugin: docker.NewDockerDriver(ctx, hclog.NewNullLogger()), t: t, engine: engine(t)}
	if err := s.configure(`{"gc": [{"image": false, "dangling_containers": [{"enabled": false}]}]}`); err != nil {
		t.Fatal(err)
	}
	return s
}

// escape is one way out of a container, tried on the stock driver, where it works, and
// on this one, which refuses it. When the first part of a test fails after an update of
// Nomad, the hole is closed there.
type escape struct {
	config string
	// made prepares the allocation as an earlier task of it could.
	made func(t *testing.T, allocDir string)
	want string // in the log of the stock driver's container
	why  string // in this driver's error
}

func (e escape) try(t *testing.T) {
	t.Helper()
	c := engine(t)
	probeImage(t, c, "aliquot-test:escape")
	docker := stock(t)
	job := docker.job(e.config, nil, nil)
	if e.made != nil {
		e.made(t, job.AllocDir)
	}
	docker.run(job)
	await(t, "the stock driver's container is out: "+e.config, func() bool { return strings.Contains(docker.logs(job), e.want) })
	ours := ship(t, driverConfig("/", t.TempDir(), ""))
	job = ours.job(e.config, nil, nil)
	if e.made != nil {
		e.made(t, job.AllocDir)
	}
	if _, _, err := ours.StartTask(job); err == nil || !strings.Contains(err.Error(), e.why) {
		t.Errorf("%s: %v, want %q", e.config, err, e.why)
	}
}

// GH-28190, CVE-2026-14891.
func TestHostNamespacesAreClosed(t *testing.T) {
	for _, option := range []string{"pid_mode", "ipc_mode", "uts_mode", "userns_mode"} {
		escape{
			config: `{"image": "aliquot-test:escape", "args": ["stay"], "` + option + `": "host"}`,
			want:   "{", why: option + ` = "host" is not allowed`,
		}.try(t)
	}
}

// GH-28177, CVE-2026-14896.
func TestLinkOutOfTheAllocationIsClosed(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := func(t *testing.T, allocDir string) {
		t.Helper()
		for _, dir := range []string{"task/local", "alloc"} {
			if err := os.Symlink(host, filepath.Join(allocDir, dir, "esc")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, way := range []string{
		`"volumes": ["local/esc:/esc"]`,
		`"volumes": ["../alloc/esc:/esc"]`,
		`"mount": [{"type": "bind", "source": "local/esc", "target": "/esc"}]`,
		`"mounts": [{"type": "bind", "source": "local/esc", "target": "/esc"}]`,
	} {
		escape{
			config: `{"image": "aliquot-test:escape", "args": ["read", "/esc/secret"], ` + way + `}`,
			made:   link, want: `read "of the host"`, why: "leaves the allocation's directory by a symbolic link",
		}.try(t)
	}
}

// A directory that the docker driver binds by itself, replaced by an earlier run of the
// task; and the mount by which that run could do so.
func TestLinkInPlaceOfADirectoryIsClosed(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir, place := range map[string]string{"task/local": "/local", "task/secrets": "/secrets", "alloc": "/alloc"} {
		escape{
			config: `{"image": "aliquot-test:escape", "args": ["read", "` + place + `/secret"]}`,
			made: func(t *testing.T, allocDir string) {
				t.Helper()
				path := filepath.Join(allocDir, dir)
				if err := os.Rename(path, path+".old"); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(host, path); err != nil {
					t.Fatal(err)
				}
			},
			want: `read "of the host"`, why: "is not a directory any more",
		}.try(t)
	}
	escape{
		config: `{"image": "aliquot-test:escape", "args": ["link", "/all/task/mine"], "volumes": ["..:/all"]}`,
		made: func(t *testing.T, allocDir string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(allocDir, "task/mine"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		want: "linked <nil>", why: "replace the directories",
	}.try(t)
}

// GH-27918, CVE-2026-6959: what a task puts in the place of a FIFO the agent's root
// opens.
func TestLogsCannotBeReplaced(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:escape")
	ours := ship(t, driverConfig("/", t.TempDir(), ""))
	for _, try := range []struct {
		s    *shipped
		name string
		env  map[string]string
	}{
		{stock(t), "stock", nil},
		{ours, "ours", nil},
		{ours, "ours, with a mode in the environment", map[string]string{"NOMAD_ALLOC_DIR": "/alloc:rw"}},
	} {
		s, name := try.s, try.name
		job := s.job(`{"image": "aliquot-test:escape", "args": ["link", "/alloc/logs/fifo"]}`, nil, try.env)
		fifo := filepath.Join(job.TaskDir().LogDir, "fifo")
		if err := os.WriteFile(fifo, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.run(job)
		await(t, name+": the container has tried", func() bool { return strings.Contains(s.logs(job), "linked") })
		_, err := os.Readlink(fifo)
		if replaced := err == nil; replaced != (name == "stock") {
			t.Errorf("%s: replaced = %v: %s", name, replaced, s.logs(job))
		}
	}
}

// What the kernel holds a container to that was refused nothing: its nodes, and none
// that it makes itself.
func TestJobWithoutGrantOpensNoGPU(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:escape")
	s := ship(t, driverConfig(nvidiaTree(t).dir, t.TempDir(), ""))
	job := s.job(`{"image": "aliquot-test:escape", "args": ["stay"]}`, nil, map[string]string{visibleDevices: "all", "AMD_VISIBLE_DEVICES": "all"})
	s.run(job)
	seen := s.seen(t, job)
	if len(seen.Nodes) != 0 || seen.Env[visibleDevices] != "void" || seen.Env["AMD_VISIBLE_DEVICES"] != "none" {
		t.Errorf("nodes %v, environment %v", seen.Nodes, seen.Env)
	}
	info, err := c.ContainerInspect(t.Context(), "task-"+job.AllocID)
	if err != nil {
		t.Fatal(err)
	}
	if h := info.HostConfig; len(h.Devices) != 0 || len(h.DeviceRequests) != 0 || h.Privileged || h.PidMode != containerapi.PidMode("") {
		t.Errorf("the engine was asked for %+v", h)
	}
}
