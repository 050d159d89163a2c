package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"aliquot.example/e2e/cluster"
)

// crashes ends each part in the middle of a burst as a crash would.
func (s *scaling) crashes(ctx context.Context, t *testing.T) {
	s.serve(ctx, t, oneClassJob, "crash", nil)
	// 5 replicas of 4 slots at 90% are for 18: a request that is sent again before the
	// old one is forgotten must not ask for a sixth.
	stop := s.load(ctx, t, "crash", 17)
	defer stop()
	s.awaitCount(ctx, t, "crash", "server", 5, 30*time.Second)
	began := time.Now()
	steady := func(what string) {
		t.Helper()
		s.awaitEvaluations(ctx, t, "crash", 5)
		counts, _ := changes(s.group("crash", "server"), began)
		if slices.ContainsFunc(counts, func(n int64) bool { return n < 5 }) {
			t.Errorf("after the crash of %s counts were set to %v, want none below 5", what, counts)
		}
		t.Logf("after the crash of %s the service is at %d, set since: %v", what, s.group("crash", "server").Desired, counts)
	}
	killed := time.Now()
	agent := s.leader(t)
	crash(t, s.processes(t, "aliquot-apm")[0])
	if err := cluster.AwaitWithin(ctx, 30*time.Second, "the end of the agent that lost a plugin", func() string {
		if slices.Contains(s.c.Processes("nomad-autoscaler"), agent) {
			return fmt.Sprintf("process %d runs", agent)
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	s.awaitEvaluations(ctx, t, "crash", 1)
	t.Logf("another agent evaluated the policy %v after the crash of a plugin", time.Since(killed).Round(100*time.Millisecond))
	steady("a plugin")
	killed = time.Now()
	crash(t, s.leader(t))
	s.awaitEvaluations(ctx, t, "crash", 1)
	t.Logf("the second agent evaluated the policy %v after the crash of the first", time.Since(killed).Round(100*time.Millisecond))
	steady("the leading autoscaler")
	for _, pid := range s.processes(t, "nomad-autoscaler") {
		crash(t, pid)
	}
	steady("both autoscalers")
	if err := s.c.CrashServer(ctx); err != nil {
		t.Fatal(err)
	}
	steady("the Nomad server")
	killed = time.Now()
	crash(t, s.processes(t, "aliquot")[0])
	s.gateway = "http://" + s.awaitAnother(ctx, t)
	t.Logf("another gateway passed its check %v after the crash of the first", time.Since(killed).Round(100*time.Millisecond))
	steady("the gateway")
	if err := s.c.CrashConsul(ctx); err != nil {
		t.Fatal(err)
	}
	steady("Consul")
	stop()
	s.awaitCount(ctx, t, "crash", "server", 0, 2*time.Minute)
}

// leader is the agent that has started plugins, which it does once it has the lock.
func (s *scaling) leader(t *testing.T) int {
	t.Helper()
	var parent int
	path := fmt.Sprintf("/proc/%d/stat", s.processes(t, "aliquot-target")[0])
	stat, err := os.ReadFile(path)
	if err == nil {
		_, err = fmt.Sscanf(string(stat[strings.LastIndexByte(string(stat), ')')+2:]), "S %d", &parent)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return parent
}

// processes lists the cluster's processes of a program, at least one.
func (s *scaling) processes(t *testing.T, program string) []int {
	t.Helper()
	found := s.c.Processes(program)
	if len(found) == 0 {
		t.Fatalf("no process of %s", program)
	}
	return found
}

func crash(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// awaitAnother awaits that a crashed gateway is gone from Consul and back.
func (s *scaling) awaitAnother(ctx context.Context, t *testing.T) string {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 60*time.Second, "the end of the gateway", func() string {
		found, _, err := s.c.Consul.Health().Service("aliquot-gateway", "", true, nil)
		if err != nil || len(found) > 0 {
			return fmt.Sprintf("%d instances, %v", len(found), err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return passing(ctx, t, s.c, "aliquot-gateway")
}
