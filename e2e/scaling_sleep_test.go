package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/api"
)

// sleepySettings are those of the gateway's service "sleepy".
const sleepySettings = "  policy = \"tokens\"\n  sleep {}\n"

// sleeps scales an engine with vLLM's sleep mode: what the demand does not need sleeps in
// place of being ended, keeps its slices and gives its memory back. The gateway holds a
// request until the engine is awake.
func (s *scaling) sleeps(ctx context.Context, t *testing.T) {
	strategy := map[string]string{"sleep": "1"}
	for name, value := range soon {
		strategy[name] = value
	}
	s.serve(ctx, t, oneClassJob, "sleepy", cluster.Vars{
		"class": "h100", "max_count": 1, "slots": 256, "strategy": strategy,
		"args": []string{"-engine", "h100", "-enable-sleep-mode", "-wake", "1s"},
	})
	g := s.admin(ctx, t)
	if !s.request(ctx, t, "sleepy", 8) {
		t.Fatal("a request before there was a replica is not served")
	}
	allocs, err := s.c.AwaitRunning(ctx, "sleepy", 1)
	if err != nil {
		t.Fatal(err)
	}
	s.awaitMemory(ctx, t, allocs[0], 512)
	began := time.Now()

	g.awaitSleep(ctx, t, "sleepy", "asleep")
	s.awaitMemory(ctx, t, allocs[0], 512/8) // of which its slices still are
	s.awaitEvaluations(ctx, t, "sleepy", 3)
	g.awaitSleep(ctx, t, "sleepy", "asleep")

	if !s.request(ctx, t, "sleepy", 8) {
		t.Error("a request that finds the replica asleep is not served")
	}
	g.awaitSleep(ctx, t, "sleepy", "")
	s.awaitMemory(ctx, t, allocs[0], 512)
	if counts, _ := changes(s.group("sleepy", "server"), began); len(counts) > 0 {
		t.Errorf("counts %v were set for what sleep does", counts)
	}
	again, err := s.c.AwaitRunning(ctx, "sleepy", 1)
	if err != nil || again[0].ID != allocs[0].ID {
		t.Errorf("another replica was started in place of the one that slept: %v", err)
	}
}

// admin is the gateway's admin listener.
func (s *scaling) admin(ctx context.Context, t *testing.T) gatewayUnderTest {
	t.Helper()
	found, _, err := s.c.Consul.Health().Service("aliquot-gateway", "", true, nil)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d gateways in Consul, %v", len(found), err)
	}
	return gatewayUnderTest{public: s.gateway, admin: "http://" + found[0].Service.Meta["admin"]}
}

// awaitSleep awaits that a service has one replica, in a state of sleep.
func (g gatewayUnderTest) awaitSleep(ctx context.Context, t *testing.T, service, want string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, time.Minute, fmt.Sprintf("one replica of %s with sleep %q", service, want), func() string {
		var all []api.Service
		if err := g.read("/v1/services", &all); err != nil {
			return err.Error()
		}
		for _, one := range all {
			if one.Service != service {
				continue
			}
			if len(one.Replicas) == 1 && one.Replicas[0].Sleep == want {
				return ""
			}
			return fmt.Sprintf("it has %+v", one.Replicas)
		}
		return "the gateway does not serve it"
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitMemory awaits that Nomad shows so many MiB of GPU memory as a task's, at each of
// the slices that it holds.
func (s *scaling) awaitMemory(ctx context.Context, t *testing.T, alloc *nomad.Allocation, mib float64) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, time.Minute, fmt.Sprintf("%v MiB of GPU memory in use by %s", mib, alloc.Name), func() string {
		usage, err := s.c.Nomad.Allocations().Stats(alloc, nil)
		if err != nil {
			return err.Error()
		}
		return missingStats(usage.ResourceUsage.DeviceStats, alloc.ID, devices(t, alloc), mib)
	})
	if err != nil {
		t.Fatal(err)
	}
}
