package nvidia_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/internal/mps"
)

// victim is a process that has nothing to do with MPS but looks like a daemon as far
// as a container can make it.
func victim(t *testing.T, pipe string) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "300")
	c.Env = []string{"CUDA_MPS_PIPE_DIRECTORY=" + pipe}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

// TestThePipeDirectoryIsNotBelieved writes into it what a container can: the plugin
// harms no other process, reads nothing that never ends, and has a daemon again.
func TestThePipeDirectoryIsNotBelieved(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-1")
	bystander := b.program(t, reserve(t, c, named(c.groups(), "h100-0"), 0, 4))
	daemon, other := b.control(b.uuids(t)[1]), b.control(b.uuids(t)[0])
	others := other.Process()
	foreign := victim(t, daemon.Pipe)
	file := filepath.Join(daemon.Pipe, mps.Program+".pid")
	for name, plant := range map[string]func() error{
		"a foreign PID": func() error { return os.WriteFile(file, fmt.Appendln(nil, foreign.Process.Pid), 0o666) },
		"a FIFO":        func() error { return syscall.Mkfifo(file, 0o666) },
		"a large file":  func() error { return os.Symlink("/dev/zero", file) },
	} {
		before := daemon.Process()
		_ = os.Remove(file)
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		// The daemon is there and nobody reaches it.
		if err := os.Remove(filepath.Join(daemon.Pipe, "control")); err != nil {
			t.Fatal(err)
		}
		await(t, "a new daemon after "+name, func() bool { pid := daemon.Process(); return pid != 0 && pid != before })
		until(t, c, "healthy after "+name, allWell)
	}
	if err := foreign.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the foreign process was ended: %v", err)
	}
	if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", foreign.Process.Pid)); err != nil || strings.Contains(string(state), ") Z ") {
		t.Errorf("the foreign process was ended: %s, %v", state, err)
	}
	if other.Process() != others || bystander.do(t, "alloc 1") != "ok" {
		t.Error("the other GPU's daemon or its client was disturbed")
	}
	if p := b.program(t, reserve(t, c, g, 0, 4)); !p.MPS {
		t.Error("a program does not reach the new daemon")
	}
}

// TestQuitByATask: any client of a daemon may reach its control socket.
func TestQuitByATask(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-1")
	bystander := b.program(t, reserve(t, c, named(c.groups(), "h100-0"), 0, 4))
	daemon, other := b.control(b.uuids(t)[1]), b.control(b.uuids(t)[0])
	before, others := daemon.Process(), other.Process()
	b.program(t, reserve(t, c, g, 0, 4))
	if err := daemon.Quit(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if took := awaitDaemon(t, daemon, before); took > 5*time.Second {
		t.Errorf("the daemon came back after %s, want within 5s", took)
	}
	until(t, c, "healthy again", allWell)
	if other.Process() != others || bystander.do(t, "alloc 1") != "ok" {
		t.Error("the other GPU's daemon or its client was disturbed")
	}
	if p := b.program(t, reserve(t, c, g, 0, 4)); !p.MPS {
		t.Error("a program does not reach the new daemon")
	}
}

// TestQuitThatWaits is quit without a time: the daemon waits for the clients that it has
// and takes no new ones. They work on, who comes meanwhile fails and has no GPU without
// limits, and after the last the daemon is replaced. Where it answers no question
// meanwhile, the GPU is withdrawn.
func TestQuitThatWaits(t *testing.T) {
	t.Parallel()
	for answers, silent := range map[string]bool{"yes": false, "no": true} {
		b := newBench(t, "h100-t4")
		if err := b.SetDriver("mps_quit_answers", answers); err != nil {
			t.Fatal(err)
		}
		c := b.plugin(t, "")
		g := named(until(t, c, "healthy", allWell), "t4-1")
		daemon, other := b.control(b.uuids(t)[1]), b.control(b.uuids(t)[0])
		before, others := daemon.Process(), other.Process()
		p, next := b.program(t, reserve(t, c, g, 0, 4)), reserve(t, c, g, 4, 8)
		quit := exec.Command(daemon.Program)
		quit.Env, quit.Stdin = append(b.env(), "CUDA_MPS_PIPE_DIRECTORY="+daemon.Pipe), strings.NewReader("quit\n")
		if err := quit.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, "the daemon to take no more clients", func() bool {
			q, err := b.tryProgram(t, next)
			if err == nil {
				if !q.MPS {
					t.Errorf("a program has %+v without MPS", q.Devices)
				}
				q.end()
			}
			return err != nil
		})
		if silent {
			awaitWithin(t, time.Minute, "the GPU to be withdrawn", func() bool { ok, _ := health(named(c.groups(), "t4-1")); return !ok })
		}
		if daemon.Process() != before || p.do(t, "alloc 1") != "ok" {
			t.Error("the daemon ended before its client")
		}
		p.end()
		if err := quit.Wait(); err != nil {
			t.Errorf("quit: %v", err)
		}
		awaitDaemon(t, daemon, before)
		until(t, c, "healthy again", allWell)
		if p := b.program(t, reserve(t, c, g, 0, 4)); !p.MPS {
			t.Error("a program does not reach the new daemon")
		}
		if other.Process() != others {
			t.Error("the other GPU's daemon was disturbed")
		}
		c.stop()
	}
}

// TestAQuestionThatCannotBePut is no reason to end a daemon: the control program
// fails, as on a host without memory or processes left.
func TestAQuestionThatCannotBePut(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	dir := t.TempDir()
	broken, asked := filepath.Join(dir, "broken"), filepath.Join(dir, "asked")
	path := filepath.Join(dir, "control")
	script := fmt.Sprintf("#!/bin/sh\nif [ -e %q ]; then echo x >> %q; exit 126; fi\nexec nvidia-cuda-mps-control \"$@\"\n", broken, asked)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := b.plugin(t, fmt.Sprintf("mps_control = %q\n", path))
	g := named(until(t, c, "healthy", allWell), "t4-0")
	p := b.program(t, reserve(t, c, g, 0, 4))
	before := b.control(b.uuids(t)[0]).Process()
	if err := os.WriteFile(broken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	await(t, "six questions", func() bool { text, _ := os.ReadFile(asked); return len(text) >= 12 })
	if ok, why := health(named(c.groups(), "t4-0")); !ok {
		t.Errorf("the GPU is withdrawn after seconds: %s", why)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if after := b.control(b.uuids(t)[0]).Process(); after != before || p.do(t, "alloc 1") != "ok" {
		t.Errorf("daemon %d was replaced by %d", before, after)
	}
}

// TestAServerThatIsNotActive is no server: the daemon answers and serves nobody.
func TestAServerThatIsNotActive(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	if err := b.SetDriver("mps_starting", true); err != nil {
		t.Fatal(err)
	}
	c := b.plugin(t, "")
	gs := until(t, c, "a fingerprint", func(gs groups) bool { return len(gs) > 0 })
	if ok, why := health(named(gs, "t4-0")); ok || why != "MPS server is starting" {
		t.Errorf("healthy %v, %q", ok, why)
	}
	if err := b.SetDriver("mps_starting", false); err != nil {
		t.Fatal(err)
	}
	until(t, c, "an ACTIVE server", allWell)
	daemon := b.control(b.uuids(t)[0])
	servers, err := daemon.Servers(t.Context())
	if err != nil || len(servers) != 1 {
		t.Fatalf("servers %v, %v: want one before any task", servers, err)
	}
	// The only server dies: the daemon goes on, and another is started.
	if err := syscall.Kill(servers[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "another server", func() bool {
		now, err := daemon.Servers(t.Context())
		return err == nil && len(now) == 1 && now[0] != servers[0]
	})
}

// TestASecretOfTheAgent reaches no helper process.
func TestASecretOfTheAgent(t *testing.T) {
	b := newBench(t, "t4")
	t.Setenv("NOMAD_TOKEN", "a-secret-of-the-agent")
	c := b.plugin(t, "")
	until(t, c, "healthy", allWell)
	daemon := b.control(b.uuids(t)[0])
	servers, err := daemon.Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(servers, daemon.Process()) {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || strings.Contains(string(env), "secret") {
			t.Errorf("process %d has the agent's environment (%v): %q", pid, err, env)
		}
	}
}

// TestRunDirThatCannotBeUsed: the reason is the true one, and nothing is offered.
func TestRunDirThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	if err := os.WriteFile(b.runDir, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := b.plugin(t, "")
	gs := until(t, c, "a fingerprint", func(gs groups) bool { return len(gs) > 0 })
	if ok, why := health(gs[0]); ok || !strings.Contains(why, b.runDir+" cannot be used: mkdir "+b.runDir+": not a directory") {
		t.Errorf("healthy %v, %q", ok, why)
	}
	if _, err := c.Reserve([]string{gs[0].Devices[0].ID}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("reserved: %v", err)
	}
	if err := os.Remove(b.runDir); err != nil {
		t.Fatal(err)
	}
	until(t, c, "a run_dir that can be used", allWell)
}

// TestAReplacedDaemonIsCounted: kill -9 leaves a health description, a metric and a
// line of the log.
func TestAReplacedDaemonIsCounted(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, b.slow(t, "1", "0"))
	until(t, c, "healthy", allWell)
	kill(t, b.control(b.uuids(t)[0]))
	gs := until(t, c, "a daemon that has ended", func(gs groups) bool { return !allWell(gs) })
	if _, why := health(gs[0]); why != "MPS daemon has ended; restarting it" {
		t.Errorf("%q", why)
	}
	g := until(t, c, "healthy again", allWell)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.Stats(ctx, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for r := range stream {
		i := slices.IndexFunc(r.Groups, func(s *device.DeviceGroupStats) bool { return s.Name == "t4-0" })
		if r.Error != nil || i < 0 {
			continue
		}
		if n := r.Groups[i].InstanceStats[g.Devices[0].ID].Stats.Attributes["mps_restarts"]; n != nil && *n.FloatNumeratorVal == 1 {
			return
		}
	}
	t.Error("the statistics do not count the new daemon")
}
