// Package e2e tests the shipped programs with real Nomad, Consul and Docker, on a rack of fake GPUs
// (e2e/rack). The tests submit the job files of jobs/ where one fits.
package e2e

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/internal/gpu"
)

// slicesJob is the job file that most tests submit.
const slicesJob = "jobs/slices.nomad.hcl"

// cleanup is how long before the test binary's deadline tests give up, so that clusters are stopped
// gracefully.
const cleanup = time.Minute

// start starts a cluster that ends with the test. Its logs are kept if the test fails.
func start(t *testing.T, o cluster.Options) (context.Context, *cluster.Cluster) {
	t.Helper()
	ctx := prepare(t)
	if testing.Verbose() {
		o.Progress = os.Stderr
	}
	c, err := cluster.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs are kept in %s", c.KeepLogs())
		}
		if err := c.Stop(); err != nil {
			t.Errorf("not all of the cluster could be removed: %v", err)
		}
	})
	return ctx, c
}

// interrupted returns a context that a signal ends, for all tests: those that have not started then
// must not start.
var interrupted = sync.OnceValue(func() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	return ctx
})

// prepare skips a test that cannot run here. It returns a context that ends early enough to stop a
// cluster.
func prepare(t *testing.T) context.Context {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, because a Nomad client does: use make e2e")
	}
	if missing := cluster.DockerMissing(t.Context()); missing != "" {
		t.Skip(missing)
	}
	if interrupted().Err() != nil {
		t.Fatal("interrupted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	context.AfterFunc(interrupted(), cancel)
	if deadline, ok := t.Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-cleanup))
		t.Cleanup(cancel)
	}
	return ctx
}

// refused starts a cluster that must fail to start, and returns why it failed.
func refused(t *testing.T, o cluster.Options) string {
	t.Helper()
	o.NoLogs = true
	c, err := cluster.Start(prepare(t), o)
	if err == nil {
		t.Fatal("the agent started", c.Stop())
	}
	return err.Error()
}

// run submits a job file and returns its running allocations. The job ends with the test.
func run(ctx context.Context, t *testing.T, c *cluster.Cluster, file string, vars cluster.Vars, count int) []*nomad.Allocation {
	t.Helper()
	job, err := c.Run(file, vars)
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	allocs, err := c.AwaitRunning(ctx, *job.ID, count)
	if err != nil {
		t.Fatal(err)
	}
	return allocs
}

// submit submits a job that is defined in a test. It ends with the test.
func submit(ctx context.Context, t *testing.T, c *cluster.Cluster, text string, vars cluster.Vars) string {
	t.Helper()
	job, err := c.RunText(text, vars)
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	return *job.ID
}

func purge(ctx context.Context, t *testing.T, c *cluster.Cluster, job string) {
	t.Cleanup(func() {
		if err := c.Purge(context.WithoutCancel(ctx), job); err != nil {
			t.Error(err)
		}
	})
}

// infos asks the model servers what they see, by task group.
func infos(ctx context.Context, t *testing.T, c *cluster.Cluster, allocs []*nomad.Allocation) map[string]hardware.Info {
	t.Helper()
	found := map[string]hardware.Info{}
	for _, alloc := range allocs {
		info, err := c.Info(ctx, alloc)
		if err != nil {
			t.Fatal(err)
		}
		if info.Problem != "" {
			t.Errorf("%s: %s", alloc.Name, info.Problem)
		}
		found[alloc.TaskGroup] = info
	}
	return found
}

// devices returns the slices that Nomad reserved for an allocation.
func devices(t *testing.T, alloc *nomad.Allocation) []gpu.Slice {
	t.Helper()
	var found []gpu.Slice
	for _, task := range alloc.AllocatedResources.Tasks {
		for _, device := range task.Devices {
			for _, id := range device.DeviceIDs {
				slice, err := gpu.ParseSlice(id)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, slice)
			}
		}
	}
	return found
}
