package conformance

import (
	"bytes"
	"context"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot/internal/gpu"
)

// Subject is a vendor's binary on a rack of at least two GPUs.
type Subject struct {
	Binary string
	Vendor gpu.Vendor
	// Env is the environment that makes the rack visible. EmptyEnv makes a host
	// without the vendor's hardware of it.
	Env, EmptyEnv []string
	// Config is the config block with every GPU shared in Slices slices; RunDir is
	// the run_dir that it names, which must not exist yet.
	Config string
	Slices int
	RunDir string
	// Break makes a GPU fail and Mend undoes it; the GPU must return within
	// Recovery.
	Break, Mend func(t *testing.T, id gpu.ID)
	Recovery    time.Duration
	// Cleanup ends what the plugin left on the host on purpose.
	Cleanup func(t *testing.T)
}

// wait is for what takes a plugin some rounds of its loop.
const wait = 20 * time.Second

// Run holds the subject to the suite.
func Run(t *testing.T, s Subject) {
	t.Cleanup(func() {
		if s.Cleanup != nil {
			s.Cleanup(t)
		}
	})
	t.Run("ConfigErrorNamesKeyValueAndFix", s.badConfig)
	t.Run("SetConfigHasNoSideEffects", s.noSideEffects)
	t.Run("GroupsAreSound", s.groups)
	t.Run("ReserveIsAGrant", s.reserve)
	t.Run("ReserveBeforeFingerprint", s.reserveFirst)
	t.Run("ReserveRefuses", s.refusals)
	t.Run("SendsOnChangeOnly", s.quiet)
	t.Run("FailureTakesAllSlicesAndNoOther", s.failure)
	t.Run("KillLosesNothing", s.kill)
	t.Run("StatsOfEveryInstance", s.stats)
	t.Run("NoHardwareIsNoError", s.empty)
}

// start launches and configures the binary.
func (s Subject) start(t *testing.T) *Child {
	t.Helper()
	c := s.launch(t, s.Env)
	if err := c.Configure(s.Config); err != nil {
		t.Fatal(err)
	}
	return c
}

func (s Subject) launch(t *testing.T, env []string) *Child {
	t.Helper()
	log := &journal{}
	c, err := Launch(s.Binary, env, log)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			t.Logf("the plugin's log:\n%s", log)
		}
	})
	return c
}

func (s Subject) follow(t *testing.T) (*Child, []*device.DeviceGroup) {
	t.Helper()
	c := s.start(t)
	if err := c.Follow(); err != nil {
		t.Fatal(err)
	}
	return c, s.healthy(t, c)
}

// healthy waits until every instance is.
func (s Subject) healthy(t *testing.T, c *Child) []*device.DeviceGroup {
	t.Helper()
	groups, err := c.Await(wait, func(groups []*device.DeviceGroup) bool { return len(groups) > 0 && allHealthy(groups) })
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

func allHealthy(groups []*device.DeviceGroup) bool {
	for _, g := range groups {
		if slices.ContainsFunc(g.Devices, func(d *device.Device) bool { return !d.Healthy }) {
			return false
		}
	}
	return true
}

func (s Subject) badConfig(t *testing.T) {
	for _, c := range []struct{ text, key, value, fix string }{
		{`gpu "*" { mode = "shard" }`, "mode", "shard", "shared"},
		{`gpu "*" { slices = 0 }`, "slices", "0", "from 1 to 100"},
		{`gpu "*" { slices = "many" }`, "slices", "many", "whole number"},
		{`gpu "0" { slices = 101 }`, `gpu "0"`, "101", "from 1 to 100"},
		{`fingerprint_period = "soon"`, "fingerprint_period", "soon", "duration"},
		{`return_mounts = "perhaps"`, "return_mounts", "perhaps", "true or false"},
		{`root = "here"`, "root", "here", "absolute"},
	} {
		err := s.launch(t, s.Env).Configure(c.text)
		if err == nil {
			t.Errorf("%s: no error", c.text)
			continue
		}
		for _, want := range []string{c.key, c.value, c.fix} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", c.text, err, want)
			}
		}
		if strings.Contains(strings.TrimSpace(err.Error()), "\n") {
			t.Errorf("%s: %q has more than one line", c.text, err)
		}
	}
}

func (s Subject) noSideEffects(t *testing.T) {
	s.start(t)
	if entries, err := os.ReadDir(s.RunDir); err == nil {
		t.Errorf("SetConfig made %d entries in %s", len(entries), s.RunDir)
	}
}

func (s Subject) groups(t *testing.T) {
	_, groups := s.follow(t)
	names := map[string]bool{}
	for _, g := range groups {
		if g.Vendor != string(s.Vendor) || g.Type != gpu.DeviceType || names[g.Name] {
			t.Errorf("group %s/%s/%s: want %s/%s and a name of its own", g.Vendor, g.Type, g.Name, s.Vendor, gpu.DeviceType)
		}
		names[g.Name] = true
		if err := g.Validate(); err != nil {
			t.Error(err)
		}
		if len(g.Devices) != s.Slices {
			t.Errorf("group %s has %d instances, want %d", g.Name, len(g.Devices), s.Slices)
		}
		of := map[gpu.ID]bool{}
		for _, d := range g.Devices {
			slice, err := gpu.ParseSlice(d.ID)
			if err != nil || slice.Of != s.Slices {
				t.Errorf("instance %q: %+v, %v", d.ID, slice, err)
			}
			of[slice.GPU] = true
			if d.HwLocality == nil || d.HwLocality.PciBusID == "" || d.HwLocality.PciBusID != strings.ToLower(d.HwLocality.PciBusID) {
				t.Errorf("instance %q has no PCI address as sysfs spells it: %+v", d.ID, d.HwLocality)
			}
		}
		if len(of) != 1 {
			t.Errorf("group %s holds slices of %d GPUs", g.Name, len(of))
		}
		for _, key := range []string{"model", "class", "index", "slices", "sharing", "enforcement", "enforcement_level", "memory_enforcement",
			"memory", "memory_per_slice", "units", "target", "driver_version", "pci", "numa_node", "weight", "unique.uuid"} {
			if g.Attributes[key] == nil {
				t.Errorf("group %s lacks attribute %s", g.Name, key)
			}
		}
	}
	if len(groups) < 2 {
		t.Errorf("%d groups, want one for each GPU of a rack of two or more", len(groups))
	}
}

// some returns the IDs of k instances of a group.
func some(g *device.DeviceGroup, k int) []string {
	var ids []string
	for _, d := range g.Devices[:k] {
		ids = append(ids, d.ID)
	}
	return ids
}

func (s Subject) reserve(t *testing.T) {
	c, groups := s.follow(t)
	for _, g := range groups {
		memory := *g.Attributes["memory"].Int
		for _, k := range []int{1, 3, s.Slices} {
			r, err := c.Plugin.Reserve(some(g, k))
			if err != nil {
				t.Fatal(err)
			}
			grant, ok, err := gpu.ParseGrant(r.Envs)
			if err != nil || !ok {
				t.Fatalf("%v: no grant: %v", r.Envs, err)
			}
			want := gpu.MiB(memory * int64(k) / int64(s.Slices))
			if grant.Group != g.Name || grant.Slices != k || grant.Total != s.Slices || grant.Memory != want || len(grant.GPUs) != 1 {
				t.Errorf("%d of %d slices of %s: %+v, want memory %s", k, s.Slices, g.Name, grant, want)
			}
			if len(r.Mounts)+len(r.Devices) > 0 {
				t.Errorf("mounts or devices without return_mounts: %+v", r)
			}
		}
	}
}

func (s Subject) reserveFirst(t *testing.T) {
	c, groups := s.follow(t)
	want, err := c.Plugin.Reserve(some(groups[0], 2))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.start(t).Plugin.Reserve(some(groups[0], 2))
	if err != nil || !maps.Equal(got.Envs, want.Envs) {
		t.Errorf("before a fingerprint: %+v, %v; want %+v", got, err, want)
	}
}

func (s Subject) refusals(t *testing.T) {
	c, groups := s.follow(t)
	one, other := some(groups[0], 1)[0], some(groups[1], 1)[0]
	for name, ids := range map[string][]string{
		"none": {}, "twice": {one, one}, "two GPUs": {one, other}, "unknown": {"GPU-unknown::00of20"}, "no ID": {"::"},
	} {
		_, err := c.Plugin.Reserve(ids)
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(strings.TrimSpace(err.Error()), "\n") {
			t.Errorf("%s: %q has more than one line", name, err)
		}
	}
}

func (s Subject) quiet(t *testing.T) {
	c, _ := s.follow(t)
	before := c.Received()
	// Several rounds of the loop pass while a change is waited for in vain.
	if _, err := c.Await(3*time.Second, func([]*device.DeviceGroup) bool { return c.Received() > before }); err == nil {
		t.Errorf("%d fingerprints though nothing changed", c.Received()-before)
	}
}

func (s Subject) failure(t *testing.T) {
	c, groups := s.follow(t)
	slice, err := gpu.ParseSlice(groups[0].Devices[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	s.Break(t, slice.GPU)
	mended := false
	defer func() {
		if !mended {
			s.Mend(t, slice.GPU)
		}
	}()
	_, err = c.Await(wait, func(now []*device.DeviceGroup) bool {
		if len(now) != len(groups) {
			return false
		}
		for _, g := range now {
			for _, d := range g.Devices {
				if d.Healthy == (g.Name == groups[0].Name) || !d.Healthy && d.HealthDesc == "" {
					return false
				}
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Mend(t, slice.GPU)
	mended = true
	if _, err := c.Await(s.Recovery, allHealthy); err != nil {
		t.Fatal(err)
	}
}

func (s Subject) kill(t *testing.T) {
	c, groups := s.follow(t)
	ids := some(groups[0], 2)
	want, err := c.Plugin.Reserve(ids)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	next, again := s.follow(t)
	if !reflect.DeepEqual(again, groups) {
		t.Errorf("after kill -9: %s\nwant %s", Describe(again), Describe(groups))
	}
	got, err := next.Plugin.Reserve(ids)
	if err != nil || !maps.Equal(got.Envs, want.Envs) {
		t.Errorf("after kill -9: %+v, %v; want %+v", got, err, want)
	}
}

func (s Subject) stats(t *testing.T) {
	c, groups := s.follow(t)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	stream, err := c.Plugin.Stats(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := <-stream
	if !ok || r.Error != nil {
		t.Fatalf("%+v", r)
	}
	for _, g := range groups {
		i := slices.IndexFunc(r.Groups, func(s *device.DeviceGroupStats) bool { return s.Name == g.Name })
		if i < 0 {
			t.Errorf("no statistics of group %s", g.Name)
			continue
		}
		for _, d := range g.Devices {
			if st := r.Groups[i].InstanceStats[d.ID]; st == nil || st.Summary == nil || st.Stats.Attributes["gpu_memory"] == nil {
				t.Errorf("instance %s: %+v", d.ID, st)
			}
		}
	}
}

func (s Subject) empty(t *testing.T) {
	c := s.launch(t, s.EmptyEnv)
	if err := c.Configure(s.Config); err != nil {
		t.Fatal(err)
	}
	if err := c.Follow(); err != nil {
		t.Fatal(err)
	}
	groups, err := c.Await(wait, func([]*device.DeviceGroup) bool { return true })
	if err != nil || len(groups) > 0 {
		t.Errorf("%s, %v; want no devices", Describe(groups), err)
	}
	if _, err := c.Plugin.Reserve([]string{"GPU-unknown::00of20"}); err == nil {
		t.Error("a reservation succeeded on a host without hardware")
	}
}

// journal keeps a plugin's log; several goroutines write.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
