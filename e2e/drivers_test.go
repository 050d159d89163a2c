package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/debian"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
	"aliquot.example/node"
)

const (
	olderDriver = "580.95.05"
	newerDriver = "580.126.09"
	agentDir    = "/var/lib/aliquot/node"
)

// drivers changes the GPU driver of three nodes and changes it back, while clients send requests
// through the gateway: none of the requests is lost. Each node is a Debian host with real apt and
// dpkg. For the first change the agents run as users run them; for the second, each is killed at
// every step.
func (p packing) drivers(ctx context.Context, t *testing.T) {
	if missing := debian.Missing(ctx, ".."); missing != "" {
		t.Skip(missing)
	}
	var hosts []*driverHost
	var made sync.WaitGroup
	for _, name := range []string{"node", "one", "two"} {
		h := &driverHost{name: name, p: p}
		hosts = append(hosts, h)
		made.Go(func() { h.problem = h.furnish(ctx, t) })
	}
	made.Wait()
	for _, h := range hosts {
		if h.problem != nil {
			t.Fatalf("%s: %v", h.name, h.problem)
		}
	}
	// The modules of the last node cannot be unloaded, so it reboots.
	if err := hosts[2].Write("etc/rmmod-fails", ""); err != nil {
		t.Fatal(err)
	}
	p.command(ctx, t, "job", "run", "-demand="+p.demand, "-pack=none", "-var", "command="+p.c.Program("aliquot"), "-var", "count=3", "-var", "slices=4", nativeJob)
	purge(ctx, t, p.c, "native")
	if _, err := p.c.AwaitRunning(ctx, "native", 3); err != nil {
		t.Fatal(err)
	}
	p.awaitHealthy(ctx, t)
	load := p.load(ctx, t)
	for _, h := range hosts {
		h.versions(ctx, t, olderDriver)
	}
	t.Run("a canary, then the others", func(t *testing.T) { p.thereByJob(ctx, t, hosts) })
	t.Run("kill -9 at every step", func(t *testing.T) { p.backUnderKills(ctx, t, hosts) })
	load.end(t)
}

// thereByJob rolls out the newer driver with jobs/node.nomad.hcl.
func (p packing) thereByJob(ctx context.Context, t *testing.T, hosts []*driverHost) {
	if _, err := p.c.Run("jobs/node.nomad.hcl", cluster.Vars{
		"consul": strings.TrimPrefix(p.c.ConsulAddress, "http://"),
		"args":   []string{"-interval=1s", "-root=" + p.c.Dir + "/${node.unique.name}/root"},
	}); err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, p.c, "node")
	p.want(ctx, t, newerDriver, 2)
	s := p.rolledOut(ctx, t, newerDriver, func(s node.Status) {
		if n := len(s.Slots.Holders); n > 2 || n > 1 && len(s.Slots.Done) == 0 {
			t.Errorf("%d nodes are changed at once, and %d are done", n, len(s.Slots.Done))
		}
	})
	if len(s.Slots.Done) != 3 {
		t.Errorf("%+v", s.Slots)
	}
	for _, h := range hosts {
		h.versions(ctx, t, newerDriver)
		if reboots := strings.Count(h.Asked(), "systemctl reboot"); reboots != map[bool]int{true: 1}[h.name == "two"] {
			t.Errorf("%s was rebooted %d times", h.name, reboots)
		}
	}
	if text := p.command(ctx, t, "node", "status"); !strings.Contains(text, "Rollout runs; 0 of 2 slots are taken") || strings.Count(text, newerDriver) < 6 {
		t.Errorf("status prints\n%s", text)
	}
}

// backUnderKills rolls out the older driver with agents that are killed whenever they save a state
// that was not seen before, and then restarted at once.
func (p packing) backUnderKills(ctx context.Context, t *testing.T, hosts []*driverHost) {
	ctx, cancel := context.WithCancel(ctx)
	var agents sync.WaitGroup
	defer agents.Wait()
	defer cancel()
	for _, h := range hosts {
		agents.Go(func() { h.killed = h.kills(ctx, t) })
	}
	p.want(ctx, t, olderDriver, 3)
	p.rolledOut(ctx, t, olderDriver, func(node.Status) {})
	cancel()
	agents.Wait()
	for _, h := range hosts {
		h.versions(context.WithoutCancel(ctx), t, olderDriver)
		t.Logf("%s was killed at\n%s", h.name, strings.Join(h.killed, "\n"))
		if len(h.killed) < 8 {
			t.Errorf("%s was killed only at %v", h.name, h.killed)
		}
	}
}

// want starts the rollout of a version.
func (p packing) want(ctx context.Context, t *testing.T, version string, most int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "drivers.json")
	text := fmt.Sprintf(`{"max": %d, "classes": {"*": {"version": %q}}}`, most, version)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log(p.command(ctx, t, "node", "rollout", file))
}

// rolledOut waits until all nodes have a version and no node has a slot. It passes every status to
// look.
func (p packing) rolledOut(ctx context.Context, t *testing.T, version string, look func(node.Status)) (s node.Status) {
	t.Helper()
	docs := node.Documents{KV: p.c.Consul.KV(), Prefix: "aliquot/node"}
	err := cluster.AwaitWithin(ctx, 6*time.Minute, "driver "+version, func() string {
		var err error
		if s, err = docs.Status(ctx); err != nil {
			return err.Error()
		}
		look(s)
		var missing []string
		for _, r := range s.Nodes {
			if r.Phase == driver.Failed {
				t.Fatalf("%s failed: %s", r.Node, r.Why)
			}
			if r.Phase != driver.Current || r.Drivers[gpu.NVIDIA].Loaded != version {
				missing = append(missing, fmt.Sprintf("%s %s: %s", r.Node, r.Phase, r.Why))
			}
		}
		if len(missing) > 0 || len(s.Nodes) != 3 || len(s.Slots.Holders) > 0 {
			return fmt.Sprintf("%d nodes, %d slots, %s", len(s.Nodes), len(s.Slots.Holders), strings.Join(missing, "; "))
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// driverHost is a node whose host is a Debian root file system.
type driverHost struct {
	*debian.Host
	p       packing
	name    string
	dir     string
	rack    *rack.Rack
	problem error
	killed  []string
}

// furnish installs the older driver on a host, boots it, and from then on plays its kernel.
func (h *driverHost) furnish(ctx context.Context, t *testing.T) (err error) {
	h.dir = h.p.c.Dir
	if h.name != "node" {
		h.dir = filepath.Join(h.p.c.Dir, h.name)
	} else if err := os.Symlink(h.dir, filepath.Join(h.dir, h.name)); err != nil {
		return err
	}
	h.rack = &rack.Rack{Path: filepath.Join(h.dir, "rack")}
	libraries := filepath.Join(h.dir, "root/usr/lib/x86_64-linux-gnu")
	library, err := os.ReadFile(filepath.Join(libraries, "libnvidia-ml.so.1"))
	if err != nil {
		return err
	}
	if h.Host, err = debian.New(ctx, "..", h.dir); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	// The rack's libraries belong to no package.
	for _, pattern := range []string{"/libnvidia-ml.so*", "/libcuda.so*"} {
		loose, _ := filepath.Glob(libraries + pattern)
		for _, path := range loose {
			err = errors.Join(err, os.Remove(path))
		}
	}
	for _, version := range []string{newerDriver, olderDriver} {
		packages, made := debian.Driver(ctx, version, library)
		err = errors.Join(err, made, h.Publish(ctx, packages))
	}
	if err != nil {
		return err
	}
	at := func(name string) string { return name + "=" + olderDriver + "-1" }
	if _, err := h.Run(ctx, "apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "install", at("nvidia-kernel-dkms"), at("nvidia-smi"), at("nvidia-cuda-mps"), at("libcuda1"), at("libnvidia-ml1"), at("nvidia-alternative")); err != nil {
		return err
	}
	if err := h.boot(ctx); err != nil {
		return err
	}
	playing, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.play(playing, t)
	}()
	t.Cleanup(func() { stop(); <-ended })
	return nil
}

// boot boots the host. The device plugin's run_dir is outside of it.
func (h *driverHost) boot(ctx context.Context) error {
	if err := h.Boot(ctx); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(h.dir, "run/driver-change")) // /run is empty after a boot
	return errors.Join(os.Symlink(filepath.Join(h.dir, "run"), h.Root.Path("run/aliquot")), h.follow())
}

// follow makes the rack show the loaded driver.
func (h *driverHost) follow() error {
	loaded := h.Loaded()
	f, err := h.rack.File()
	if err != nil || f.Driver.Get("version") == loaded && f.Driver.Get("loaded") == "yes" {
		return err
	}
	if loaded == "" {
		return h.rack.SetDriver("loaded", false)
	}
	return errors.Join(h.rack.SetDriver("version", loaded), h.rack.SetDriver("loaded", true))
}

// play plays the host's kernel and firmware: the rack shows the driver that was loaded, and a
// requested reboot happens, which also ends the agent.
func (h *driverHost) play(ctx context.Context, t *testing.T) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := h.follow()
		if h.RebootAsked() {
			h.end()
			err = errors.Join(err, h.boot(ctx))
		}
		if err != nil && ctx.Err() == nil {
			t.Errorf("%s: %v", h.name, err)
		}
	}
}

// end kills the host's agent, as a crash would.
func (h *driverHost) end() {
	for _, pid := range h.p.c.Processes("aliquot") {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), "-root="+h.p.c.Dir+"/"+h.name+"/root") {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
	}
}

// state returns the agent's saved state.
func (h *driverHost) state() (s driver.State) {
	text, err := os.ReadFile(h.Root.Path(agentDir, "state.json"))
	if err == nil {
		_ = json.Unmarshal(text, &s)
	}
	return s
}

// kills runs the host's agent as systemd would, and kills it at every state at which it was not
// killed before. It returns the states at which it was killed and with which it continued.
func (h *driverHost) kills(ctx context.Context, t *testing.T) (list []string) {
	seen := map[string]bool{"current": true, "current ": true}
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, h.p.c.Program("aliquot"), "node", "agent", "-interval=1s", "-root="+h.p.c.Dir+"/"+h.name+"/root", "-node="+h.id(t))
		cmd.Env = append(os.Environ(), "NOMAD_ADDR="+h.p.c.NomadAddress, "CONSUL_HTTP_ADDR="+h.p.c.ConsulAddress, "ALIQUOT_CLUSTER="+h.p.c.Dir)
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return list
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		if len(list) > 0 {
			list[len(list)-1] += ", then " + string(h.state().Phase)
		}
		tick := time.NewTicker(time.Millisecond)
		for running := true; running; {
			select {
			case <-ended:
				running = false
			case <-tick.C:
				s := h.state()
				if at := strings.TrimSpace(string(s.Phase) + " " + string(s.LastDone)); s.Phase != "" && !seen[at] {
					seen[at] = true
					list = append(list, at)
					_ = cmd.Process.Kill()
				}
			}
		}
		tick.Stop()
		<-ended
	}
	return list
}

func (h *driverHost) id(t *testing.T) string {
	nodes, _, err := h.p.c.Nomad.Nodes().List(nil)
	if err != nil {
		t.Error(err)
	}
	for _, n := range nodes {
		if n.Name == h.name {
			return n.ID
		}
	}
	return ""
}

// versions checks a node: module, library and packages of a version, what the node offers to Nomad,
// and that it runs tasks.
func (h *driverHost) versions(ctx context.Context, t *testing.T, version string) {
	t.Helper()
	if h.Loaded() != version {
		t.Errorf("%s has loaded %s, want %s", h.name, h.Loaded(), version)
	}
	out, err := h.Run(ctx, "dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\n", "nvidia-*", "libnvidia-*", "libcuda1")
	if err != nil || strings.Count(out, " "+version+"-1\n") != 6 {
		t.Errorf("%s has packages\n%s%v", h.name, out, err)
	}
	err = cluster.AwaitWithin(ctx, time.Minute, "driver "+version+" in Nomad", func() string {
		n, _, err := h.p.c.Nomad.Nodes().Info(h.id(t), nil)
		if err != nil {
			return err.Error()
		}
		if n.SchedulingEligibility != nomad.NodeSchedulingEligible || n.DrainStrategy != nil {
			return n.Name + " takes no tasks"
		}
		for _, g := range n.NodeResources.Devices {
			if v := g.Attributes["driver_version"]; v == nil || v.StringVal == nil || *v.StringVal != version {
				return fmt.Sprintf("%s of %s has driver %v", g.Name, n.Name, v)
			}
			for _, d := range g.Instances {
				if !d.Healthy {
					return g.Name + " of " + n.Name + ": " + d.HealthDescription
				}
			}
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}
