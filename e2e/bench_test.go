package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/profilekv"
)

// matrix measures a job on two slice counts, each in an allocation of its own. The engine
// is so slow that a busy machine adds little to its times.
func (s *scaling) matrix(ctx context.Context, t *testing.T) {
	cmd := exec.CommandContext(ctx, s.c.Program("aliquot"), "bench", "matrix", "-job=../"+twoClassesJob,
		"-var=service=measured", "-var=image="+s.c.Image, "-var=memory=64", `-var=args=["-engine", "grant", "-speedup", "0.3"]`,
		`-var=classes={ h100 = { slices = 1, slots = 8, cost = 1, max = 1 } }`, "-var=weights={}", "-var=speeds={}",
		"-classes=h100", "-slices=5,10", "-cost=h100=4", "-objective=ttft=4s tpot=400ms", "-objective=ttft=1ms",
		"-time=10s", "-prompt=64", "-output=16", "-driver=raw_exec", "-command="+s.c.Program("aliquot"))
	cmd.Env = append(cmd.Environ(), "NOMAD_ADDR="+s.c.NomadAddress, "CONSUL_HTTP_ADDR="+s.c.ConsulAddress)
	out, err := cmd.CombinedOutput()
	t.Logf("aliquot bench matrix:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Within ttft=4s tpot=400ms:", "cheapest", "misses the objective with a single request"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	listed, err := profilekv.List(s.c.Consul, "measured", nil)
	if err != nil || len(listed.Bad) > 0 {
		t.Fatal(err, listed.Bad)
	}
	speed := map[string]float64{}
	for _, p := range listed.Profiles["measured"] {
		speed[p.Slices] = p.Curve.Stepping(1, 0)
		if p.Class != "h100" || p.Driver == "" || p.Engine == "" || !strings.HasPrefix(p.Image, s.c.Image) || len(p.Within) != 2 {
			t.Errorf("%+v", p)
		}
	}
	if len(speed) != 2 || !(speed["5of20"] > 1.3*speed["10of20"]) {
		t.Errorf("steps by slices: %v", speed)
	}
	err = cluster.Await(ctx, "the jobs to be gone", func() string {
		jobs, _, err := s.c.Nomad.Jobs().PrefixList("measured")
		if err != nil {
			return err.Error()
		}
		if len(jobs) > 0 {
			return jobs[0].ID + " is " + jobs[0].Status
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}
