package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/modelserver/engine"
	"aliquot.example/internal/profilekv"
)

const benchJob = "jobs/bench.nomad.hcl"

// bench measures a job in its own allocation, and a running replica by a dispatched job. The engine
// is so slow that a busy machine adds little to its times.
func (s *scaling) bench(ctx context.Context, t *testing.T) {
	args := []string{"-engine", "grant", "-speedup", "0.3"}
	out, err := s.aliquot(ctx, "bench", "matrix", "-job=../"+twoClassesJob,
		"-var=service=measured", "-var=image="+s.c.Image, "-var=memory=64", `-var=args=["-engine", "grant", "-speedup", "0.3"]`,
		`-var=classes={ h100 = { slices = 1, slots = 8, cost = 1, max = 1 } }`, "-var=weights={}", "-var=speeds={}",
		"-classes=h100", "-slices=10", "-cost=h100=4", "-objective=ttft=4s tpot=400ms", "-objective=ttft=1ms",
		"-time=20s", "-prompt=64", "-output=16", "-driver=raw_exec")
	t.Logf("aliquot bench matrix:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Within ttft=4s tpot=400ms for 99% of the requests:", "cheapest", "misses the objective with a single request"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if jobs, _, err := s.c.Nomad.Jobs().PrefixList("measured"); err != nil || len(jobs) > 0 {
		t.Errorf("%d jobs of the matrix are left, %v", len(jobs), err)
	}
	s.dispatched(ctx, t, args)
	listed, err := profilekv.List(s.c.Consul, "measured", nil)
	if err != nil || len(listed.Bad) > 0 {
		t.Fatal(err, listed.Bad)
	}
	h100, _ := engine.Class("h100")
	truth := h100.Truth().Step / 0.3
	sizes := map[string]bool{}
	for _, p := range listed.Profiles["measured"] {
		sizes[p.Slices] = true
		if p.Class != "h100" || p.Driver == "" || p.Engine == "" || !strings.HasPrefix(p.Image, s.c.Image) {
			t.Errorf("%+v", p)
		}
		if step := p.Curve.StepTime(1, 0); step < 0.9*truth || step > 1.5*truth {
			t.Errorf("%s: a step takes %v s, the engine computes with %v", p.Slices, step, truth)
		}
	}
	if len(sizes) != 2 || !sizes["5of20"] || !sizes["10of20"] {
		t.Errorf("profiles of %v", sizes)
	}
	out, err = s.aliquot(ctx, "job", "right-size", "-objective=ttft=4s tpot=400ms", "-cost=h100=4", "-rate=1",
		"-var=service=measured", "-var=image="+s.c.Image, "../"+twoClassesJob)
	t.Logf("aliquot job right-size:\n%s", out)
	if err != nil || !strings.Contains(out, "Cheapest: h100, 5 of 20 slices") || !strings.Contains(out, "Now: 1 x h100, 5 of 20 slices, ") {
		t.Errorf("right-size: %v", err)
	}
}

// dispatched measures a running replica.
func (s *scaling) dispatched(ctx context.Context, t *testing.T, args []string) {
	t.Helper()
	classes := map[string]map[string]int{"h100": {"slices": 5, "slots": 8, "cost": 1, "max": 1}}
	job, err := s.c.Run(twoClassesJob, cluster.Vars{"service": "measured", "image": s.c.Image, "memory": 64, "args": args, "classes": classes})
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, s.c, *job.ID)
	one := 1
	if _, _, err := s.c.Nomad.Jobs().Scale("measured", "h100", &one, "", false, nil, nil); err != nil {
		t.Fatal(err)
	}
	passing(ctx, t, s.c, "measured")
	job, err = s.c.Run(benchJob, cluster.Vars{
		"driver": "raw_exec", "consul": strings.TrimPrefix(s.c.ConsulAddress, "http://"), "time": "25s",
	})
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, s.c, *job.ID)
	run, _, err := s.c.Nomad.Jobs().Dispatch(*job.ID, map[string]string{"service": "measured", "class": "h100"}, nil, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, s.c, run.DispatchedJobID)
	if _, err := s.c.AwaitComplete(ctx, run.DispatchedJobID, 1); err != nil {
		allocs, _, failed := s.c.Nomad.Jobs().Allocations(run.DispatchedJobID, true, nil)
		for _, a := range allocs {
			s.copyLog(ctx, t, t.Output(), &nomad.Allocation{ID: a.ID, NodeID: a.NodeID}, "measure", "stderr")
		}
		t.Fatal(err, failed)
	}
}

// aliquot runs the command against the cluster.
func (s *scaling) aliquot(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.c.Program("aliquot"), args...)
	cmd.Env = append(cmd.Environ(), "NOMAD_ADDR="+s.c.NomadAddress, "CONSUL_HTTP_ADDR="+s.c.ConsulAddress)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
