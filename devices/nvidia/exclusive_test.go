package nvidia_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/mps"
)

// computeMode is what NVML would say.
func (b *bench) computeMode(uuid string) string {
	text, err := os.ReadFile(filepath.Join(b.Path+".d", uuid+".mode"))
	if err != nil {
		return "0"
	}
	return strings.TrimSpace(string(text))
}

const exclusiveProcess = "3"

// TestASharedGPUIsExclusive: a program that misses the daemon fails, a restart of the
// plugin changes nothing, and the GPU has its own mode back when it leaves sharing.
func TestASharedGPUIsExclusive(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-1")
	uuid := b.uuids(t)[1]
	await(t, "EXCLUSIVE_PROCESS", func() bool { return b.computeMode(uuid) == exclusiveProcess })
	if p := b.program(t, reserve(t, c, g, 0, 4)); !p.MPS {
		t.Error("a program does not reach its daemon")
	} else {
		p.end()
	}
	past := map[string]string{"CUDA_VISIBLE_DEVICES": uuid}
	if p, err := b.tryProgram(t, past); err == nil {
		t.Errorf("a program that misses the pipe directory has %+v", p.Devices)
	}
	c.kill(t)
	next := b.plugin(t, `gpu "t4" { mode = "whole" }`)
	until(t, next, "whole", allWell)
	if mode := b.computeMode(uuid); mode != "0" {
		t.Errorf("the GPU that left sharing has compute mode %s", mode)
	}
	if mode := b.computeMode(b.uuids(t)[0]); mode != exclusiveProcess {
		t.Errorf("the GPU that is still shared has compute mode %s", mode)
	}
	if p, err := b.tryProgram(t, past); err != nil {
		t.Errorf("the whole GPU: %v", err)
	} else {
		p.end()
	}
	next.stop()
	until(t, b.plugin(t, "mps_exclusive = false"), "shared but not exclusive", allWell)
	await(t, "the mode of before", func() bool { return b.computeMode(b.uuids(t)[0]) == "0" })
	if mode := b.computeMode(uuid); mode != "0" {
		t.Errorf("compute mode %s with mps_exclusive = false", mode)
	}
}

// TestAModeOfTheOperatorStays: the plugin restores nothing that it did not change.
func TestAModeOfTheOperatorStays(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	uuid := b.uuids(t)[0]
	if err := os.WriteFile(filepath.Join(b.Path+".d", uuid+".mode"), []byte("3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := b.plugin(t, "")
	until(t, c, "healthy", allWell)
	c.stop()
	until(t, b.plugin(t, `gpu "*" { mode = "whole" }`), "whole", allWell)
	if mode := b.computeMode(uuid); mode != exclusiveProcess {
		t.Errorf("compute mode %s", mode)
	}
}

// TestAProhibitedGPUStaysSo: the operator's mode is not overridden, and the GPU takes no
// task until it has another.
func TestAProhibitedGPUStaysSo(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	uuid := b.uuids(t)[1]
	set := func(mode string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(b.Path+".d", uuid+".mode"), []byte(mode+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set("2")
	c := b.plugin(t, "")
	gs := until(t, c, "a prohibited GPU", func(gs groups) bool {
		_, why := health(named(gs, "t4-1"))
		well, _ := health(named(gs, "h100-0"))
		return well && strings.Contains(why, "compute mode PROHIBITED")
	})
	if mode := b.computeMode(uuid); mode != "2" {
		t.Errorf("compute mode %s; %v", mode, gs)
	}
	set("0")
	until(t, c, "another mode", allWell)
	await(t, "EXCLUSIVE_PROCESS", func() bool { return b.computeMode(uuid) == exclusiveProcess })
	set("2") // under a server that runs
	until(t, c, "prohibited again", func(gs groups) bool { ok, _ := health(named(gs, "t4-1")); return !ok })
	if mode := b.computeMode(uuid); mode != "2" {
		t.Errorf("compute mode %s under a server", mode)
	}
}

// TestAProhibitedGPUTakesNoTask whether it is whole or cut by MIG, and says what to do;
// the others go on.
func TestAProhibitedGPUTakesNoTask(t *testing.T) {
	t.Parallel()
	for file, of := range map[string]struct{ config, other string }{
		"h100-t4":  {`gpu "*" { mode = "whole" }`, "h100"},
		"a100-mig": {"", ""},
	} {
		b := newBench(t, file)
		c := b.plugin(t, of.config)
		before := until(t, c, "healthy", allWell)
		uuids := b.uuids(t)
		mode := filepath.Join(b.Path+".d", uuids[len(uuids)-1]+".mode")
		if err := os.WriteFile(mode, []byte("2\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		gs := until(t, c, "a prohibited GPU", func(gs groups) bool { return !allWell(gs) })
		sick := 0
		for _, g := range gs {
			ok, why := health(g)
			if ok != (g.Name == of.other) || !ok && !(strings.Contains(why, "compute mode PROHIBITED") && strings.Contains(why, "nvidia-smi -c")) {
				t.Errorf("%s: group %s is healthy %v: %q", file, g.Name, ok, why)
			}
			sick += len(g.Devices)
		}
		if len(gs) != len(before) || sick == 0 {
			t.Errorf("%s: groups %d became %d", file, len(before), len(gs))
		}
		past := map[string]string{"CUDA_VISIBLE_DEVICES": uuids[len(uuids)-1]}
		if of.other != "" {
			if p, err := b.tryProgram(t, past); err == nil {
				t.Errorf("%s: a program has a GPU that lets none in: %+v", file, p.Devices)
			}
		}
		if err := os.Remove(mode); err != nil {
			t.Fatal(err)
		}
		until(t, c, "another mode", allWell)
		c.stop()
	}
}

// TestAServerThatOutlivesItsDaemon keeps its clients and does not keep the new server
// out; the GPU is exclusive again when it has ended.
func TestAServerThatOutlivesItsDaemon(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	uuid := b.uuids(t)[0]
	await(t, "EXCLUSIVE_PROCESS", func() bool { return b.computeMode(uuid) == exclusiveProcess })
	p := b.program(t, reserve(t, c, g, 0, 4))
	daemon := b.control(uuid)
	before := daemon.Process()
	kill(t, daemon)
	awaitDaemon(t, daemon, before)
	until(t, c, "healthy beside the old server", allWell)
	q := b.program(t, reserve(t, c, g, 4, 8))
	if !q.MPS || q.Server == p.Server || p.do(t, "alloc 1") != "ok" {
		t.Errorf("over MPS %v, servers %d and %d", q.MPS, p.Server, q.Server)
	}
	if mode := b.computeMode(uuid); mode != "0" {
		t.Errorf("compute mode %s while two servers are on the GPU", mode)
	}
	p.end()
	await(t, "EXCLUSIVE_PROCESS again", func() bool { return b.computeMode(uuid) == exclusiveProcess })
}

// TestAnMPSDaemonOfTheOperator on the same GPU is noticed and named.
func TestAnMPSDaemonOfTheOperator(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "mps_exclusive = false")
	until(t, c, "healthy", allWell)
	dir := t.TempDir()
	env := append(b.env(), "CUDA_MPS_PIPE_DIRECTORY="+dir, "CUDA_MPS_LOG_DIRECTORY="+dir, "CUDA_VISIBLE_DEVICES="+b.uuids(t)[1])
	for _, command := range []string{"nvidia-cuda-mps-control -d", "echo start_server -uid 0 | nvidia-cuda-mps-control"} {
		cmd := exec.Command("sh", "-c", command)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", command, err, out)
		}
	}
	end := func() {
		cmd := exec.Command("sh", "-c", "echo quit -t 1 | nvidia-cuda-mps-control")
		cmd.Env = env
		_ = cmd.Run()
	}
	t.Cleanup(end)
	gs := until(t, c, "a foreign MPS server", func(gs groups) bool { ok, _ := health(named(gs, "t4-1")); return !ok })
	if _, why := health(named(gs, "t4-1")); !strings.Contains(why, "an MPS server that is not this plugin's (PID ") || !strings.Contains(why, "of the daemon at "+dir) {
		t.Errorf("%q", why)
	}
	if ok, why := health(named(gs, "h100-0")); !ok {
		t.Errorf("the other GPU: %s", why)
	}
	end()
	until(t, c, "the end of the foreign daemon", allWell)
	events, err := b.Daemons()
	if err != nil {
		t.Fatal(err)
	}
	second := 0
	for _, e := range events {
		if e.What == rack.SecondDaemon {
			second++
		}
	}
	if second != 1 {
		t.Errorf("the rack has seen %d second daemons, want the operator's", second)
	}
	// Not by mistake of the test: the record names a process that is gone.
	if pid := events[len(events)-1].PID; syscall.Kill(pid, 0) == nil && b.control(b.uuids(t)[1]).Process() == pid {
		t.Error("the operator's daemon is taken for the plugin's: " + strconv.Itoa(pid))
	}
}

// TestAnIdleMPSDaemonOfTheOperator has no server, so it keeps nobody from the GPU: it is
// named in the log, and nothing is withdrawn.
func TestAnIdleMPSDaemonOfTheOperator(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "")
	until(t, c, "healthy", allWell)
	dir := t.TempDir()
	control := exec.Command(filepath.Join(b.tools.Bin, mps.Program), "-d")
	control.Env = append(b.env(), "CUDA_MPS_PIPE_DIRECTORY="+dir, "CUDA_MPS_LOG_DIRECTORY="+dir)
	if out, err := control.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	foreign := mps.Control{Program: filepath.Join(b.tools.Bin, mps.Program), Pipe: dir}
	t.Cleanup(func() { _ = foreign.Quit(context.Background(), 0) })
	await(t, "a warning", func() bool { return c.log.has(fmt.Sprintf("PID %d at %s", foreign.Process(), dir)) })
	if ok, why := health(named(c.groups(), "t4-0")); !ok {
		t.Errorf("the GPU is withdrawn: %s", why)
	}
}
