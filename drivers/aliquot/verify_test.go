package aliquot

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// mpsMachine is a rack of one H100 and one T4 with a running MPS daemon for the
// first.
type mpsMachine struct {
	root, run string
	control   string // path of the control program
	env       []string
	grant     gpu.Grant
}

func newMPSMachine(t *testing.T) mpsMachine {
	t.Helper()
	engine(t)
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc, which builds the rack: scripts/setup installs it")
	}
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	tools, err := rack.Build(t.Context(), filepath.Join(dir, "rack"))
	if err != nil {
		t.Fatal(err)
	}
	// Short, because a socket's path has room for 107 characters.
	m := mpsMachine{}
	if m.run, err = os.MkdirTemp("", "aq"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(m.run) })
	m.root = filepath.Join(m.run, "root")
	r, err := rack.New(m.run, "h100-t4")
	if err != nil {
		t.Fatal(err)
	}
	if err := rack.Root(m.root, r, tools.Lib); err != nil {
		t.Fatal(err)
	}
	f, err := r.File()
	if err != nil {
		t.Fatal(err)
	}
	g := f.GPUs[0]
	pipe := filepath.Join(m.run, "mps", g.UUID(), "pipe")
	if err := os.MkdirAll(pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	m.env, m.control = tools.Env(r, nil), filepath.Join(tools.Bin, "nvidia-cuda-mps-control")
	m.grant = mpsGrant(pipe)
	m.grant.GPUs, m.grant.PCI = []gpu.ID{gpu.ID(g.UUID())}, []string{g.PCI()}
	control := func(stdin string, args ...string) {
		cmd := exec.Command(filepath.Join(tools.Bin, "nvidia-cuda-mps-control"), args...)
		cmd.Env = append(m.env, "CUDA_MPS_PIPE_DIRECTORY="+pipe, "CUDA_MPS_LOG_DIRECTORY="+m.run, "CUDA_VISIBLE_DEVICES="+g.UUID())
		cmd.Stdin = strings.NewReader(stdin)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Errorf("MPS control %v: %v: %s", args, err, out.String())
		}
	}
	control("", "-d")
	t.Cleanup(func() { control("quit -t 1\n") })
	return m
}

func (m mpsMachine) ship(t *testing.T, timeout time.Duration) *shipped {
	return ship(t, driverConfig(m.root, m.run, fmt.Sprintf(`, "attachment_timeout": %q`, timeout)), m.env...)
}

func TestClientOfMPSIsVerified(t *testing.T) {
	m := newMPSMachine(t)
	s := m.ship(t, patience)
	probeImage(t, s.engine, "aliquot-test:mps")
	job := s.job(`{"image": "aliquot-test:mps", "args": ["cuda"], "require_attachment": true}`, reserved(m.grant), nil)
	s.run(job)
	e := s.event(t, "GPU attachment verified: process", "is a client of the MPS daemon of h100-0 ("+string(m.grant.GPUs[0])+")")
	if e.Annotations["attached"] != "true" || e.AllocID != job.AllocID {
		t.Errorf("event %+v", e)
	}
	await(t, "the program says that it runs over MPS", func() bool { return strings.Contains(s.logs(job), "mps true") })
}

func TestTaskThatNeverAttachesEndsWhereItMust(t *testing.T) {
	m := newMPSMachine(t)
	s := m.ship(t, time.Second)
	probeImage(t, s.engine, "aliquot-test:mps")
	job := s.job(`{"image": "aliquot-test:mps", "args": ["stay"], "require_attachment": true}`, reserved(m.grant), nil)
	s.run(job)
	exit, err := s.WaitTask(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.event(t, "GPU attachment not seen: within 1s", "require_attachment = true ends the task")
	select {
	case result := <-exit:
		if result.Successful() || result.Err == nil || !strings.Contains(result.Err.Error(), "no process of this task is a client of the MPS daemon") {
			t.Errorf("exit %+v", result)
		}
	case <-time.After(patience):
		t.Fatal("the task was not ended")
	}
}

func TestTaskThatNeverAttachesIsOnlyReportedByDefault(t *testing.T) {
	m := newMPSMachine(t)
	s := m.ship(t, patience)
	probeImage(t, s.engine, "aliquot-test:mps")
	job := s.job(`{"image": "aliquot-test:mps", "args": ["stay"], "attachment_timeout": "1s"}`, reserved(m.grant), nil)
	s.run(job)
	s.event(t, "GPU attachment not seen: within 1s", "CUDA runs without MPS, and without the granted limits")
	if status, err := s.InspectTask(job.ID); err != nil || status.State != drivers.TaskStateRunning {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestTaskThatEndsBeforeTheCheckIsNoFailure(t *testing.T) {
	m := newMPSMachine(t)
	s := m.ship(t, 10*time.Second)
	probeImage(t, s.engine, "aliquot-test:mps")
	job := s.job(`{"image": "aliquot-test:mps", "args": ["exit"], "require_attachment": true}`, reserved(m.grant), nil)
	s.run(job)
	exit, err := s.WaitTask(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	if result := <-exit; !result.Successful() {
		t.Errorf("exit %+v", result)
	}
	// A later task's verdict comes after this one's would have come.
	later := s.job(`{"image": "aliquot-test:mps", "args": ["stay"], "attachment_timeout": "10s"}`, reserved(m.grant), nil)
	s.run(later)
	s.event(t, "GPU attachment not seen: within 10s")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.AllocID == job.AllocID && strings.Contains(e.Message, "attachment") {
			t.Errorf("event %q", e.Message)
		}
	}
}

func TestCheckGoesOnAfterTheDriverWasKilled(t *testing.T) {
	m := newMPSMachine(t)
	s := m.ship(t, 10*time.Second) // long enough for the kill to come first on a busy host
	probeImage(t, s.engine, "aliquot-test:mps")
	job := s.job(`{"image": "aliquot-test:mps", "args": ["stay"], "require_attachment": true}`, reserved(m.grant), nil)
	handle := s.run(job)
	s.relaunch()
	if err := s.RecoverTask(handle); err != nil {
		t.Fatal(err)
	}
	exit, err := s.WaitTask(context.Background(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.event(t, "GPU attachment not seen", "require_attachment = true ends the task")
	if result := <-exit; result.Err == nil {
		t.Errorf("exit %+v", result)
	}
}

func TestProcessWithKFDIsVerified(t *testing.T) {
	c := engine(t)
	r := amdTree(t)
	probeImage(t, c, "aliquot-test:amd")
	s := ship(t, driverConfig(r.dir, t.TempDir(), ""))
	g := gpu.Grant{
		Vendor: gpu.AMD, Group: "mi300x", GPUs: []gpu.ID{"0000:c6:00.0"}, PCI: []string{"0000:c6:00.0"}, Slices: 1, Total: 1,
		Memory: 196592, Sharing: gpu.SharingNone, Enforcement: gpu.EnforceNone, Target: "gfx942",
	}
	job := s.job(`{"image": "aliquot-test:amd", "args": ["stay"]}`, reserved(g), nil)
	s.run(job)
	inspected, err := c.ContainerInspect(t.Context(), "task-"+job.AllocID)
	if err != nil {
		t.Fatal(err)
	}
	// What the kernel shows of a process that opened /dev/kfd.
	r.file(fmt.Sprintf("sys/class/kfd/kfd/proc/%d/pasid", inspected.State.Pid), "32770\n")
	r.file("sys/class/kfd/kfd/proc/1/pasid", "32769\n")
	s.event(t, fmt.Sprintf("GPU attachment verified: process %d has opened the compute driver (KFD) with mi300x (0000:c6:00.0)", inspected.State.Pid))
}
