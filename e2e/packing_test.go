package e2e

import (
	"context"
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
	"aliquot.example/internal/account"
)

// halves is a demand for halves of GPUs and whole GPUs.
const halves = `[{"cpu": 10, "memory": 10, "instances": 10, "requests": 1, "weight": 1},
 {"cpu": 10, "memory": 10, "instances": 20, "requests": 1, "weight": 1}]`

// packJob requests slices and does not use them: usage is what Nomad has allocated, with any
// driver.
const packJob = `
variable "name" {}
variable "slices" { type = number }
variable "node" { default = ".*" }
job "pack" {
  id   = var.name
  name = var.name
  constraint {
    attribute = "${node.unique.name}"
    operator  = "regexp"
    value     = "^${var.node}$"
  }
  group "work" {
    task "sleep" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["3600"]
      }
      resources {
        cpu    = 10
        memory = 10
        device "nvidia/gpu" {
          count = var.slices
        }
      }
    }
  }
}`

// TestPacking runs three clients with one, two and three GPUs. It checks the order in which each
// policy fills them, a request that has no room until a defragmentation makes some, and the
// requests behind the gateway meanwhile. Then all three get another GPU driver.
func TestPacking(t *testing.T) {
	demand := filepath.Join(t.TempDir(), "demand.json")
	if err := os.WriteFile(demand, []byte(halves), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, c := start(t, cluster.Options{Rack: "h100-2xt4", Driver: fmt.Sprintf("packing {\n demand_file = %q\n}\n", demand)})
	var more sync.WaitGroup
	errs := make([]error, 2)
	for i, r := range []string{"t4", "h100-t4"} {
		more.Go(func() { errs[i] = c.AddClient(ctx, []string{"one", "two"}[i], r) })
	}
	more.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	p := packing{c: c, demand: demand, file: filepath.Join(t.TempDir(), "pack.nomad.hcl")}
	if err := os.WriteFile(p.file, []byte(packJob), 0o644); err != nil {
		t.Fatal(err)
	}
	p.awaitRoom(ctx, t, map[string]string{"one": "2", "two": "4", "node": "5"})
	t.Run("order", func(t *testing.T) { p.order(ctx, t) })
	t.Run("defragmentation", func(t *testing.T) { p.defrag(ctx, t) })
	t.Run("drivers", func(t *testing.T) { p.drivers(ctx, t) })
}

// packing is a cluster under test with a job file and a demand.
type packing struct {
	c            *cluster.Cluster
	demand, file string
}

// command runs the shipped command against the cluster.
func (p packing) command(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, p.c.Program("aliquot"), args...)
	cmd.Env = append(os.Environ(), "NOMAD_ADDR="+p.c.NomadAddress, "CONSUL_HTTP_ADDR="+p.c.ConsulAddress)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("aliquot %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// submit runs packJob under a policy; it ends with the test.
func (p packing) submit(ctx context.Context, t *testing.T, name, policy string, slices int, node string) {
	t.Helper()
	p.command(ctx, t, "job", "run", "-demand="+p.demand, "-pack="+policy, "-var", "name="+name, "-var", fmt.Sprintf("slices=%d", slices), "-var", "node="+node, p.file)
	purge(ctx, t, p.c, name)
}

// placed returns the node of a job's only allocation.
func (p packing) placed(ctx context.Context, t *testing.T, name string) string {
	t.Helper()
	allocs, err := p.c.AwaitRunning(ctx, name, 1)
	if err != nil {
		t.Fatal(err)
	}
	return allocs[0].NodeName
}

// awaitRoom waits until nodes publish these levels of free capacity, and returns how long that
// took.
func (p packing) awaitRoom(ctx context.Context, t *testing.T, want map[string]string) time.Duration {
	t.Helper()
	begin := time.Now()
	err := cluster.AwaitWithin(ctx, time.Minute, "levels of free capacity", func() string {
		nodes, _, err := p.c.Nomad.Nodes().List(nil)
		if err != nil {
			return err.Error()
		}
		var wrong []string
		for _, stub := range nodes {
			node, _, err := p.c.Nomad.Nodes().Info(stub.ID, nil)
			if err != nil {
				return err.Error()
			}
			if got := node.Attributes["unique.aliquot.room"]; want[node.Name] != "" && got != want[node.Name] {
				wrong = append(wrong, fmt.Sprintf("node %s publishes room %q, want %s", node.Name, got, want[node.Name]))
			}
		}
		return strings.Join(wrong, ", ")
	})
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(begin)
}

// order places half a GPU under each policy.
func (p packing) order(ctx context.Context, t *testing.T) {
	writes := p.countWrites(ctx, t)
	for _, step := range []struct{ policy, want string }{{"best-fit", "one"}, {"spread", "node"}} {
		p.submit(ctx, t, step.policy, step.policy, 10, ".*")
		if got := p.placed(ctx, t, step.policy); got != step.want {
			t.Errorf("%s fills %s first, want %s", step.policy, got, step.want)
		}
	}
	t.Logf("levels follow a placement within %s", p.awaitRoom(ctx, t, map[string]string{"one": "1"}).Round(100*time.Millisecond))
	// The free half of the first GPU is useful only for halves.
	p.submit(ctx, t, "fragmentation", "fragmentation", 10, ".*")
	if got := p.placed(ctx, t, "fragmentation"); got != "one" {
		t.Errorf("fragmentation fills %s, want the half that is left on one", got)
	}
	again := p.command(ctx, t, "job", "run", "-demand="+p.demand, "-pack=fragmentation", "-var", "name=fragmentation", "-var", "slices=10", p.file)
	if job, _, err := p.c.Nomad.Jobs().Info("fragmentation", nil); err != nil || *job.Version != 0 {
		t.Errorf("the same job again is another version: %v, %s", err, again)
	}
	p.learn(ctx, t)
	t.Logf("levels follow another placement within %s", p.awaitRoom(ctx, t, map[string]string{"one": "0"}).Round(100*time.Millisecond))
	t.Logf("3 placements one after the other: %d writes of nodes, %d evaluations because of them", writes(), p.causedByNodes(t))
	for _, job := range []string{"best-fit", "spread", "fragmentation"} {
		if err := p.c.Purge(ctx, job); err != nil {
			t.Fatal(err)
		}
	}
	p.burst(ctx, t)
}

// learn runs the periodic job that learns the typical demand, once.
func (p packing) learn(ctx context.Context, t *testing.T) {
	job, err := p.c.Run("jobs/demand.nomad.hcl", cluster.Vars{"driver": "raw_exec", "consul": p.c.ConsulAddress, "cron": "0 0 1 1 *"})
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, p.c, *job.ID)
	if _, _, err := p.c.Nomad.Jobs().PeriodicForce(*job.ID, nil); err != nil {
		t.Fatal(err)
	}
	if err := cluster.AwaitWithin(ctx, time.Minute, "a learned demand in Consul KV", func() string {
		pair, _, err := p.c.Consul.KV().Get(account.DemandKey, nil)
		if err != nil || pair == nil {
			return fmt.Sprintf("key %s: %v, %v", account.DemandKey, pair, err)
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	if out := p.command(ctx, t, "demand"); !strings.Contains(out, "unique.aliquot.waste_10") {
		t.Errorf("the learned demand has no class of 10 slices:\n%s", out)
	}
}

// burst places four halves of a GPU at once, with the levels from before the burst.
func (p packing) burst(ctx context.Context, t *testing.T) {
	p.awaitRoom(ctx, t, map[string]string{"one": "2", "two": "4", "node": "5"})
	writes, before := p.countWrites(ctx, t), p.causedByNodes(t)
	var placed sync.WaitGroup
	jobs := []string{"burst-0", "burst-1", "burst-2", "burst-3"}
	for _, job := range jobs {
		purge(ctx, t, p.c, job)
		placed.Go(func() {
			cmd := exec.CommandContext(ctx, p.c.Program("aliquot"), "job", "run", "-demand="+p.demand, "-pack=best-fit", "-var", "name="+job, "-var", "slices=10", p.file)
			cmd.Env = append(os.Environ(), "NOMAD_ADDR="+p.c.NomadAddress, "CONSUL_HTTP_ADDR="+p.c.ConsulAddress)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", job, err, out)
			}
		})
	}
	placed.Wait()
	on := map[string]int{}
	for _, job := range jobs {
		on[p.placed(ctx, t, job)]++
	}
	// Levels are from before the burst, but nothing is placed where it does not fit.
	if on["one"] != 2 || on["two"] != 2 {
		t.Errorf("of four halves %v were placed, want two on one, which is full then, and two on two", on)
	}
	took := p.awaitRoom(ctx, t, map[string]string{"one": "0", "two": "2"})
	t.Logf("a burst of 4 placements: levels follow within %s, %d writes of nodes, %d evaluations because of them", took.Round(100*time.Millisecond), writes(), p.causedByNodes(t)-before)
	for _, job := range jobs {
		if err := p.c.Purge(ctx, job); err != nil {
			t.Fatal(err)
		}
	}
}

// countWrites returns a function that counts the writes of nodes to Nomad's state since the call.
func (p packing) countWrites(ctx context.Context, t *testing.T) func() int {
	t.Helper()
	nodes, meta, err := p.c.Nomad.Nodes().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]uint64{}
	for _, n := range nodes {
		at[n.ID] = n.ModifyIndex
	}
	ctx, stop := context.WithCancel(ctx)
	total := make(chan int, 1)
	go func() {
		sum, index := 0, meta.LastIndex
		for ctx.Err() == nil {
			nodes, meta, err := p.c.Nomad.Nodes().List((&nomad.QueryOptions{WaitIndex: index}).WithContext(ctx))
			if err != nil {
				continue
			}
			index = meta.LastIndex
			for _, n := range nodes {
				if n.ModifyIndex != at[n.ID] {
					at[n.ID] = n.ModifyIndex
					sum++
				}
			}
		}
		total <- sum
	}()
	return func() int { stop(); return <-total }
}

// causedByNodes counts the evaluations so far that changed nodes caused.
func (p packing) causedByNodes(t *testing.T) int {
	t.Helper()
	list, _, err := p.c.Nomad.Evaluations().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range list {
		if e.TriggeredBy == "node-update" {
			n++
		}
	}
	return n
}
