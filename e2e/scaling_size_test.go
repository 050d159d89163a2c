package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
)

// rightSize gives the replicas of a job that serves fewer slices, as a benchmark suggests: the
// count stays, the old replicas finish what they serve, and no request is lost.
func (s *scaling) rightSize(ctx context.Context, t *testing.T) {
	const service, replicas = "resize", 2
	// The replicas finish their answers, which take seconds, however busy the host is.
	args := []string{"-engine", "grant", "-slots", "4", "-drain", "60s"}
	s.serve(ctx, t, oneClassJob, service, cluster.Vars{
		"class": "h100", "slices": 10, "max_count": replicas, "args": args, "kill_timeout": "60s", "strategy": map[string]string{},
	})
	for size, slower := range map[string]float64{"10of20": 1, "5of20": 2} {
		p := learned.Profile{Measured: time.Now(), Class: "h100", Slices: size, Answers: 400, Curve: &learned.Curve{
			Prefill: 1e-4 * slower, A: 0.02 * slower, B: 2e-5, C: 1e-7, Prompt: 100, Output: answerTokens, KV: 50_000, Samples: 400,
		}}
		if _, err := profilekv.Save(ctx, s.c.Consul, service, p); err != nil {
			t.Fatal(err)
		}
	}
	served, stop := s.countLost(ctx, t, service, 4*replicas)
	defer stop()
	s.awaitSizes(ctx, t, service, 10, replicas)
	out, err := s.aliquot(ctx, "job", "right-size", "-run", "-objective=ttft=2s tpot=200ms", "-cost=h100=4", "-rate=1",
		"-var=service="+service, "-var=image="+s.c.Image, "-var=memory=64", "-var=class=h100", fmt.Sprintf("-var=max_count=%d", replicas),
		`-var=args=["-engine", "grant", "-slots", "4", "-drain", "60s"]`, "-var=kill_timeout=60s", "../"+oneClassJob)
	t.Logf("aliquot job right-size -run:\n%s", out)
	if err != nil || !strings.Contains(out, "submitted with 5 slices for each replica") {
		t.Fatal(err)
	}
	s.awaitSizes(ctx, t, service, 5, replicas)
	before := served.Load()
	err = cluster.AwaitWithin(ctx, time.Minute, "answers of the new replicas", func() string {
		if n := served.Load(); n < before+4*replicas {
			return fmt.Sprintf("there are %d", n-before)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	if lost := stop(); lost > 0 {
		t.Errorf("%d requests were lost, %d served", lost, served.Load())
	}
	if desired := s.group(service, "server").Desired; desired != replicas {
		t.Errorf("the count is %d, want %d", desired, replicas)
	}
	s.awaitDrained(ctx, t, service, replicas)
}

// countLost keeps n callers busy until it is stopped. Each waits for its answer then too, so
// that an answer that is missing is one that was lost.
func (s *scaling) countLost(ctx context.Context, t *testing.T, service string, n int) (served *atomic.Int64, stop func() int) {
	var lost atomic.Int64
	var wait sync.WaitGroup
	served = new(atomic.Int64)
	ended, end := context.WithCancel(ctx)
	for range n {
		wait.Go(func() {
			for ended.Err() == nil {
				if s.request(ctx, t, service, answerTokens) {
					served.Add(1)
				} else {
					lost.Add(1)
				}
			}
		})
	}
	return served, func() int { end(); wait.Wait(); return int(lost.Load()) }
}

// awaitSizes awaits that so many replicas of a service are healthy, all with that many slices.
func (s *scaling) awaitSizes(ctx context.Context, t *testing.T, service string, slices, replicas int) {
	t.Helper()
	what := fmt.Sprintf("%d replicas of %s with %d slices", replicas, service, slices)
	err := cluster.AwaitWithin(ctx, 2*time.Minute, what, func() string {
		found, _, err := s.c.Consul.Health().Service(service, "", true, nil)
		if err != nil {
			return err.Error()
		}
		var sizes []string
		right := 0
		for _, e := range found {
			sizes = append(sizes, e.Service.Meta[gpu.MetaSlices])
			if e.Service.Meta[gpu.MetaSlices] == fmt.Sprint(slices) {
				right++
			}
		}
		if right != replicas || len(found) != replicas {
			return fmt.Sprintf("there are some of %q", sizes)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitDrained awaits that so many replicas of a job have ended, none by a failure.
func (s *scaling) awaitDrained(ctx context.Context, t *testing.T, job string, replicas int) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, time.Minute, "the end of the old replicas of "+job, func() string {
		allocs, _, err := s.c.Nomad.Jobs().Allocations(job, true, nil)
		if err != nil {
			return err.Error()
		}
		ended := 0
		for _, a := range allocs {
			switch {
			case a.ClientStatus == nomad.AllocClientStatusFailed:
				t.Fatalf("replica %s failed: %+v", a.ID, a.TaskStates)
			case a.DesiredStatus == nomad.AllocDesiredStatusStop && a.ClientStatus == nomad.AllocClientStatusComplete:
				ended++
			}
		}
		if ended != replicas {
			return fmt.Sprintf("%d of %d", ended, replicas)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}
