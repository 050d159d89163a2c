package rack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"aliquot.example/e2e/rack"
)

// dialogue is a probe that answers one JSON value per line.
type dialogue struct {
	t   *testing.T
	in  io.WriteCloser
	out *json.Decoder
}

func talkTo(t *testing.T, r *rack.Rack, name string) *dialogue {
	t.Helper()
	cmd := startProbe(tools, r, name)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("probe %s: %v", name, err)
		}
	})
	d := &dialogue{t, in, json.NewDecoder(out)}
	var ready string
	if err := d.out.Decode(&ready); err != nil || ready != "ready" {
		t.Fatalf("probe %s says %q, %v", name, ready, err)
	}
	return d
}

func (d *dialogue) ask(line string, answer any) {
	d.t.Helper()
	d.send(line)
	d.hear(answer)
}

func (d *dialogue) send(line string) {
	d.t.Helper()
	if _, err := fmt.Fprintln(d.in, line); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dialogue) hear(answer any) {
	d.t.Helper()
	if err := d.out.Decode(answer); err != nil {
		d.t.Fatal(err)
	}
}

// edit fails the test when an edit of the rack fails.
func edit(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestXIDReachesEveryWatcherOnce(t *testing.T) {
	t.Parallel()
	r := newRack(t, "h100-t4")
	f, err := r.File()
	if err != nil {
		t.Fatal(err)
	}
	uuid := f.GPUs[1].UUID()
	edit(t, r.XID(uuid, 31)) // nobody watches yet, so nobody receives it
	first, second := talkTo(t, r, "events"), talkTo(t, r, "events")
	var e eventSeen
	if first.ask("short", &e); e.Return != "Timeout" || e.MS < 50 {
		t.Fatalf("an idle wait: %+v", e)
	}
	first.send("long")
	edit(t, r.XID(uuid, 79))
	if first.hear(&e); e.Return != "Success" || e.UUID != uuid || e.Data != 79 || e.Type != 8 || e.GI != 0xFFFFFFFF {
		t.Fatalf("first watcher: %+v", e)
	}
	if second.ask("long", &e); e.Data != 79 {
		t.Fatalf("second watcher: %+v", e)
	}
	if first.ask("short", &e); e.Return != "Timeout" {
		t.Fatalf("told twice: %+v", e)
	}
	edit(t, r.Event(uuid, "clock")) // not registered
	edit(t, r.Event(uuid, "dbe"))
	if first.ask("long", &e); e.Type != 2 {
		t.Fatalf("DBE: %+v", e)
	}
}

func TestLastWordsOfALostGPU(t *testing.T) {
	t.Parallel()
	r := newRack(t, "h100-t4")
	f, _ := r.File()
	uuid := f.GPUs[0].UUID()
	watch := talkTo(t, r, "events")
	edit(t, r.Edit(func(f *rack.File) error {
		f.GPU(uuid).Add("event", "1 xid 79")
		f.GPU(uuid).Set("lost", "yes")
		return nil
	}))
	var e eventSeen
	if watch.ask("long", &e); e.Return != "Success" || e.Data != 79 {
		t.Fatalf("%+v", e)
	}
	if watch.ask("short", &e); e.Return != "GPU is lost" {
		t.Fatalf("%+v", e)
	}
	edit(t, r.Restore(uuid))
	if watch.ask("short", &e); e.Return != "Timeout" {
		t.Fatalf("%+v", e)
	}
}

func TestEventOfOneMIGInstance(t *testing.T) {
	t.Parallel()
	r := newRack(t, "a100-mig")
	f, _ := r.File()
	watch := talkTo(t, r, "events")
	edit(t, r.XID(f.GPUs[0].UUID(), 94, "gi=3", "ci=0"))
	var e eventSeen
	if watch.ask("long", &e); e.Data != 94 || e.GI != 3 {
		t.Fatalf("%+v", e)
	}
}

func TestEditsShowInARunningProcess(t *testing.T) {
	t.Parallel()
	r := newRack(t, "h100-t4")
	f, _ := r.File()
	uuid := f.GPUs[0].UUID()
	d := talkTo(t, r, "calls")
	see := func() map[string]string {
		t.Helper()
		answers := map[string]string{}
		d.ask("round", &answers)
		return answers
	}
	check := func(step string, want map[string]string) {
		t.Helper()
		got := see()
		for call, answer := range want {
			if got[call] != answer {
				t.Errorf("%s: %s = %q, want %q", step, call, got[call], answer)
			}
		}
	}
	check("at rest", map[string]string{
		"count": "2", "uuid": uuid, "util": "0", "temperature": "41", "power": "69620", "limit": "700000", "architecture": "9", "numa": "0",
		"bus width": "5120", "max clock": "1980", "reasons": "1", "mode": "0", "ecc": "0", "remap": "[0 0 false false]",
		"retired": "Not Supported", "attributes": "Not Supported", "profile": "16", "memory v1": "479", "memory v2": "0",
		"recovery": "0",
	})
	edit(t, r.EditGPU(uuid, func(g *rack.GPU) {
		g.Set("gpu_util", "37")
		g.Set("used_mib", "1000")
		g.Set("ecc_volatile_ue", "3")
		g.Set("remap_pending", "yes")
		g.Set("recovery_action", "2")
		g.Set("temperature", "N/A")
	}))
	check("edited", map[string]string{"util": "37", "memory v1": "1479", "memory v2": "1000", "ecc": "3", "remap": "[0 0 true false]",
		"recovery": "2", "temperature": "Not Supported"})
	edit(t, r.Fail(uuid, "nvmlDeviceGetPowerUsage", 999))
	check("one call fails", map[string]string{"power": "Unknown Error", "util": "37"})
	edit(t, r.Fail(uuid, "nvmlDeviceGetPowerUsage", 0))
	edit(t, r.Lose(uuid))
	for call, answer := range see() {
		if call != "count" && answer != "GPU is lost" {
			t.Errorf("lost: %s = %q", call, answer)
		}
	}
	edit(t, r.Remove(uuid))
	check("off the bus", map[string]string{"count": "1", "uuid": "GPU is lost"})
	edit(t, r.Restore(uuid))
	check("back", map[string]string{"count": "2", "uuid": uuid, "power": "69620"})
	edit(t, r.SetDriver("loaded", false))
	check("driver unloaded", map[string]string{"count": "Driver Not Loaded", "uuid": "Driver Not Loaded"})
}

func TestExclusiveModeShowsWhoMissedMPS(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	d := talkTo(t, m.rack, "calls")
	answers := map[string]string{}
	if d.ask("exclusive", &answers); answers["mode"] != "3" {
		t.Fatalf("mode %q", answers["mode"])
	}
	if c := attach(t, m); c.Code != 0 || !c.Context.MPS {
		t.Fatalf("over MPS: %+v", c.opened)
	}
	if c := attach(t, m, "CUDA_MPS_PIPE_DIRECTORY="+t.TempDir()); c.Code != 46 {
		t.Fatalf("beside MPS: %+v", c.opened)
	}
}

func TestInitWithoutDriver(t *testing.T) {
	t.Parallel()
	r := newRack(t, "t4")
	edit(t, r.SetDriver("loaded", false))
	var got string
	if probe(t, tools, r, "init", &got); got != "Driver Not Loaded" {
		t.Fatalf("got %q", got)
	}
	edit(t, r.SetDriver("loaded", true))
	edit(t, r.SetDriver("fail", "nvmlInit_v2 18"))
	if probe(t, tools, r, "init", &got); got != "Driver/library version mismatch" {
		t.Fatalf("got %q", got)
	}
}

func TestAMistakeInTheRackIsNamed(t *testing.T) {
	t.Parallel()
	r := newRack(t, "t4")
	f, _ := r.File()
	edit(t, r.Set(f.GPUs[0].UUID(), "temprature", 40))
	cmd := startProbe(tools, r, "init")
	var errs = new(stderr)
	cmd.Stderr = errs
	out, _ := cmd.Output()
	if string(out) != "\"Driver Not Loaded\"\n" || !errs.has("rack:", "temprature = 40") {
		t.Fatalf("printed %q, stderr %q", out, errs.text)
	}
}

func TestProcessesOfMPSClientsShow(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	d := talkTo(t, m.rack, "processes")
	c := attach(t, m, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=1G")
	for _, line := range []string{"alloc 700", "load 40"} {
		if code := c.do(line); code != 0 {
			t.Fatalf("%s: CUDA error %d", line, code)
		}
	}
	var seen processesSeen
	d.ask("round", &seen)
	pid, server := uint32(c.pid()), uint32(c.Context.Server)
	if seen.MPS[pid] != 700 || seen.Compute[pid] != 700 || seen.SM[pid] != 40 || seen.Compute[server] != 30 || len(seen.MPS) != 1 ||
		seen.UsedMiB != 730 || seen.Util != 40 {
		t.Fatalf("client %d, server %d: %+v", pid, server, seen)
	}
	edit(t, m.rack.EditGPU(m.gpu, func(g *rack.GPU) {
		g.Processes = append(g.Processes, rack.Section{{Key: "pid", Value: "4242"}, {Key: "memory_mib", Value: "512"}})
	}))
	if d.ask("round", &seen); seen.Compute[4242] != 512 || seen.MPS[4242] != 0 {
		t.Fatalf("%+v", seen)
	}
	kill(t, c.Context.Server)
	seen = processesSeen{}
	if d.ask("round", &seen); len(seen.MPS) != 0 || len(seen.Compute) != 1 || seen.UsedMiB != 512 {
		t.Fatalf("after kill -9 of the server: %+v", seen)
	}
}

// The traps that end a Go process with status 127, and the way round each.

func exitStatus(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestTrapMissingSymbol(t *testing.T) {
	t.Parallel()
	r := newRack(t, "h100")
	old, err := rack.Build(context.Background(), filepath.Join(cacheDir(), "old"), rack.NewerThan470...)
	if err != nil {
		t.Fatal(err)
	}
	if out, code := exitStatus(t, startProbe(old, r, "unguarded")); code != 127 {
		t.Fatalf("a call that the library lacks: %q, status %d, want 127", out, code)
	}
	if out, code := exitStatus(t, startProbe(old, r, "guarded")); code != 0 || out != "false\n" {
		t.Fatalf("LookupSymbol on the old library: %q, status %d", out, code)
	}
	if out, code := exitStatus(t, startProbe(tools, r, "guarded")); code != 0 || out != "true\n" {
		t.Fatalf("LookupSymbol on the new library: %q, status %d", out, code)
	}
}

func TestTrapShutdownWithoutLibrary(t *testing.T) {
	t.Parallel()
	r := newRack(t, "h100")
	none := rack.Tools{Lib: t.TempDir(), Bin: tools.Bin}
	if out, code := exitStatus(t, startProbe(none, r, "init")); code != 0 || out != "12\n" {
		t.Fatalf("Init without a library: %q, status %d", out, code)
	}
	if out, code := exitStatus(t, startProbe(none, r, "shutdown")); code != 127 {
		t.Fatalf("Shutdown after a failed Init: %q, status %d, want 127", out, code)
	}
}

func TestTrapBindNow(t *testing.T) {
	t.Parallel()
	cmd := startProbe(tools, newRack(t, "h100"), "init", "LD_BIND_NOW=1")
	if out, code := exitStatus(t, cmd); code != 127 {
		t.Fatalf("LD_BIND_NOW: %q, status %d, want 127", out, code)
	}
}
