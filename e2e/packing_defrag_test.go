package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
)

// nativeJob is a service with replicas behind the gateway, each on slices of a GPU. Their server is
// the admin listener of another gateway.
const nativeJob = "testdata/native.nomad.hcl"

// defrag leaves one GPU free on each of two nodes, puts half a replica on each, and requests a
// whole GPU.
func (p packing) defrag(ctx context.Context, t *testing.T) {
	for i, node := range []string{"node", "node", "node", "two"} {
		name := fmt.Sprintf("filler-%d", i)
		p.submit(ctx, t, name, "none", 20, node)
		p.placed(ctx, t, name)
	}
	p.awaitRoom(ctx, t, map[string]string{"one": "2", "two": "2", "node": "0"})
	// Nomad spreads replicas of one job, but a policy does not.
	p.command(ctx, t, "job", "run", "-demand="+p.demand, "-pack=none", "-var", "command="+p.c.Program("aliquot"), nativeJob)
	purge(ctx, t, p.c, "native")
	allocs, err := p.c.AwaitRunning(ctx, "native", 2)
	if err != nil {
		t.Fatal(err)
	}
	if allocs[0].NodeName == allocs[1].NodeName {
		t.Fatalf("both replicas are on %s", allocs[0].NodeName)
	}
	p.submit(ctx, t, "whole", "fragmentation", 20, ".*")
	if err := cluster.AwaitWithin(ctx, 30*time.Second, "a request without room", func() string {
		if p.c.Blocked("whole") == "" {
			return "it is not blocked"
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	p.awaitHealthy(ctx, t)
	load := p.load(ctx, t)
	var report struct {
		Nodes []struct{ Free, Waste float64 }
		Moves []struct{ Job, Refused string }
	}
	text := p.command(ctx, t, "job", "defrag", "-demand="+p.demand, "-dry-run")
	if !strings.Contains(text, "native/server") || strings.Count(text, "\n") != 2 {
		t.Errorf("the dry run prints %s", text)
	}
	if err := json.Unmarshal([]byte(p.command(ctx, t, "top", "-fragmentation", "-json", "-demand="+p.demand)), &report); err != nil || len(report.Nodes) != 3 || len(report.Moves) != 1 || report.Moves[0].Refused != "" {
		t.Errorf("the report is %+v, %v", report, err)
	}
	t.Log(p.command(ctx, t, "job", "defrag", "-demand="+p.demand))
	t.Logf("the request that had no room runs on %s", p.placed(ctx, t, "whole"))
	load.end(t)
}

// awaitHealthy waits until the deployment reports both replicas as healthy.
func (p packing) awaitHealthy(ctx context.Context, t *testing.T) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, time.Minute, "healthy replicas", func() string {
		d, _, err := p.c.Nomad.Jobs().LatestDeployment("native", nil)
		if err != nil || d == nil || d.Status != nomad.DeploymentStatusSuccessful {
			return fmt.Sprintf("deployment %+v, %v", d, err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// getLoad sends requests through a gateway until it is stopped.
type getLoad struct {
	stop          context.CancelFunc
	wait          sync.WaitGroup
	asked, failed atomic.Int64
}

// load starts a gateway in front of the service and two clients.
func (p packing) load(ctx context.Context, t *testing.T) *getLoad {
	t.Helper()
	dir := t.TempDir()
	socket := freeAddress(t)
	config := fmt.Sprintf("listen {\n address = %q\n}\nadmin {\n address = \"127.0.0.1:0\"\n}\nnomad {\n address = %q\n}\nservice \"native\" {\n nomad {}\n}\n", socket, p.c.NomadAddress)
	path := filepath.Join(dir, "gateway.hcl")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	t.Cleanup(stop)
	cmd := exec.CommandContext(running, p.c.Program("aliquot"), "gateway", "-config", path)
	log, err := os.Create(filepath.Join(dir, "gateway.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = cmd.Wait() })
	ask := func() error {
		res, err := http.Get("http://" + socket + "/v1/ready")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	}
	if err := cluster.AwaitWithin(ctx, time.Minute, "the first answer through the gateway", func() string {
		if err := ask(); err != nil {
			return err.Error()
		}
		return ""
	}); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("%v\n%s", err, text)
	}
	l := &getLoad{}
	asking, cancel := context.WithCancel(ctx)
	l.stop = cancel
	for range 2 {
		l.wait.Go(func() {
			for tick := time.NewTicker(20 * time.Millisecond); asking.Err() == nil; <-tick.C {
				l.asked.Add(1)
				if err := ask(); err != nil {
					l.failed.Add(1)
					t.Logf("failed: %v", err)
				}
			}
		})
	}
	return l
}

func (l *getLoad) end(t *testing.T) {
	l.stop()
	l.wait.Wait()
	t.Logf("%d requests, %d failed", l.asked.Load(), l.failed.Load())
	if l.failed.Load() > 0 || l.asked.Load() < 20 {
		t.Errorf("%d of %d requests failed", l.failed.Load(), l.asked.Load())
	}
}
