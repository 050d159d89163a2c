package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
)

// load sends requests in several loops until it is stopped, and counts failures.
type load struct {
	stop          context.CancelFunc
	wait          sync.WaitGroup
	asked, failed atomic.Int64
}

func startLoad(ctx context.Context, t *testing.T, g gatewayUnderTest, loops int) *load {
	l := &load{}
	running, cancel := context.WithCancel(ctx)
	l.stop = cancel
	for range loops {
		l.wait.Go(func() {
			for running.Err() == nil {
				status, body, err := g.ask(ctx)
				l.asked.Add(1)
				if err != nil || status != 200 {
					l.failed.Add(1)
					t.Logf("failed: %d %q %v", status, body, err)
				}
			}
		})
	}
	return l
}

func (l *load) end(t *testing.T) {
	l.stop()
	l.wait.Wait()
	t.Logf("%d requests, %d failed", l.asked.Load(), l.failed.Load())
	if l.failed.Load() > 0 || l.asked.Load() < 20 {
		t.Errorf("%d of %d requests failed", l.failed.Load(), l.asked.Load())
	}
}

// updateUnderLoad replaces all replicas with a new version of the job.
func updateUnderLoad(ctx context.Context, t *testing.T, c *cluster.Cluster, g gatewayUnderTest) {
	vars := appVars(c, 2)
	allocs := run(ctx, t, c, httpJob, vars, 2)
	old := map[string]bool{}
	for _, a := range allocs {
		old[a.ID] = true
	}
	l := startLoad(ctx, t, g, 4)
	l.goOn(ctx, t, 20)
	vars["memory"] = 72
	if _, err := c.Run(httpJob, vars); err != nil {
		t.Fatal(err)
	}
	awaitReplaced(ctx, t, c, "app", old)
	l.goOn(ctx, t, 20)
	l.end(t)
}

// awaitReplaced waits until all allocations of a job have been replaced by new ones.
func awaitReplaced(ctx context.Context, t *testing.T, c *cluster.Cluster, job string, old map[string]bool) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 2*time.Minute, "new allocations of "+job, func() string {
		found, _, err := c.Nomad.Jobs().Allocations(job, false, nil)
		if err != nil {
			return err.Error()
		}
		fresh, stopped := 0, 0
		for _, a := range found {
			switch {
			case !old[a.ID] && a.ClientStatus == nomad.AllocClientStatusRunning && a.DesiredStatus == nomad.AllocDesiredStatusRun:
				fresh++
			case old[a.ID] && a.ClientStatus == nomad.AllocClientStatusComplete:
				stopped++
			}
		}
		if fresh < len(old) || stopped < len(old) {
			return fmt.Sprintf("%d new run, %d old ended", fresh, stopped)
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}

// goOn waits until n more requests have been answered.
func (l *load) goOn(ctx context.Context, t *testing.T, n int64) {
	t.Helper()
	before := l.asked.Load()
	err := cluster.AwaitWithin(ctx, time.Minute, "requests are answered", func() string {
		if now := l.asked.Load() - before; now < n {
			return fmt.Sprintf("%d of %d", now, n)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stopUnderLoad stops the gateway's job while clients send requests. They use Consul's health, as
// clients of a load balancer do, and turn away when it is failing.
func stopUnderLoad(ctx context.Context, t *testing.T, c *cluster.Cluster, g gatewayUnderTest) {
	run(ctx, t, c, httpJob, appVars(c, 1), 1)
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		var index uint64
		for running.Err() == nil {
			found, meta, err := c.Consul.Health().Service("aliquot-gateway", "", true, (&consul.QueryOptions{WaitIndex: index}).WithContext(running))
			if err == nil && len(found) == 0 {
				return
			}
			if err == nil {
				index = meta.LastIndex
			}
		}
	}()
	l := startLoad(running, t, g, 0)
	for range 4 {
		l.wait.Go(func() {
			for running.Err() == nil {
				status, body, err := g.ask(ctx)
				l.asked.Add(1)
				if err != nil || status != 200 {
					l.failed.Add(1)
					t.Logf("failed: %d %q %v", status, body, err)
				}
			}
		})
	}
	l.goOn(ctx, t, 20)
	if _, _, err := c.Nomad.Jobs().Deregister(g.job, false, nil); err != nil {
		t.Fatal(err)
	}
	<-running.Done()
	l.end(t)
	err := cluster.AwaitWithin(ctx, time.Minute, "the gateway's end", func() string {
		if _, err := http.Get(g.admin + "/v1/ready"); err == nil {
			return "it still answers"
		}
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}
