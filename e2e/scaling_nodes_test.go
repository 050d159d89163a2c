package e2e

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/nodes/cloud"
	"aliquot.example/internal/account"
)

// rentedPool is the pool of the nodes that the autoscaler starts.
const rentedPool = "rented"

// rentedJob asks for half a GPU of such a node, count times.
const rentedJob = `
job "rented" {
  node_pool = "rented"
  group "work" {
    count = 3
    update {
      max_parallel = 0
    }
    task "sleep" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["3600"]
      }
      resources {
        cpu    = 10
        memory = 10
        device "gpu" {
          count = 10
          constraint {
            attribute = "${device.attr.class}"
            value     = "a10g"
          }
        }
      }
    }
  }
}`

// startCloud starts a cloud of nodes with an A10G each, closed for now.
func (s *scaling) startCloud(ctx context.Context, t *testing.T) {
	t.Helper()
	s.cloud = &cloud.Cloud{
		Start: func(name string) error { return s.c.AddClientOf(ctx, rentedPool, name, "a10g") },
		End: func(name string) {
			s.wasDrained(ctx, t, name)
			s.c.StopClient(name)
		},
		Failed: func(err error) { t.Error(err) },
	}
	s.cloud.Close(true)
	server := httptest.NewServer(s.cloud.Handler())
	t.Cleanup(server.Close)
	s.cloudURL = server.URL
}

// plugins is a folder with the autoscaler's plugins and the cloud's target.
func (s *scaling) plugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{"aliquot-apm", "aliquot-strategy", "aliquot-target", "e2e/rented-nodes"} {
		if err := os.Symlink(s.c.Program(program), filepath.Join(dir, filepath.Base(program))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// nodePolicies is the policy that users get, for the test's cloud and in a hurry.
func nodePolicies(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../jobs/autoscaler-nodes.hcl")
	if err != nil {
		t.Fatal(err)
	}
	policies := string(text)
	for _, change := range [][2]string{
		{`"10s"`, `"1s"`}, {`"2m"`, `"1s"`}, {"keep=10m", "keep=1s"}, {"class=h100", "class=a10g"}, {`target "aws-asg"`, `target "rented-nodes"`},
	} {
		if !strings.Contains(policies, change[0]) {
			t.Fatalf("the policy for nodes has no %s", change[0])
		}
		policies = strings.ReplaceAll(policies, change[0], change[1])
	}
	return policies
}

// nodes runs work that finds no node, on nodes that the autoscaler starts for it and ends
// after it.
func (s *scaling) nodes(ctx context.Context, t *testing.T) {
	s.endNodes(t)
	began := time.Now()
	s.cloud.Close(false)
	s.awaitRented(ctx, t, 1)
	t.Logf("a node for the standby room joined after %v", time.Since(began).Round(time.Second))
	before := s.cloud.Now()
	submitted := time.Now()
	job := submit(ctx, t, s.c, rentedJob, nil)
	allocs, err := s.c.AwaitRunning(ctx, job, 3)
	if err != nil {
		t.Fatal(err)
	}
	kept := allocs[0]
	t.Logf("three halves of a GPU run %v after their job came", time.Since(submitted).Round(time.Second))
	if now := s.cloud.Now(); now.Wanted != 2 || !slices.Contains(before.Nodes, kept.NodeName) {
		t.Errorf("%d nodes, the first task is on %s and not on one of %v", now.Wanted, kept.NodeName, before.Nodes)
	}
	one := 1
	if _, _, err := s.c.Nomad.Jobs().Scale(job, "work", &one, "less is needed", false, nil, nil); err != nil {
		t.Fatal(err)
	}
	shrunk := time.Now()
	s.awaitRented(ctx, t, 1)
	t.Logf("the empty node was gone %v later", time.Since(shrunk).Round(time.Second))
	if left := s.cloud.Now().Nodes; !slices.Equal(left, []string{kept.NodeName}) {
		t.Errorf("nodes %v are left, want %s whose slices are held", left, kept.NodeName)
	}
	if now, _, err := s.c.Nomad.Allocations().Info(kept.ID, nil); err != nil || now.ClientStatus != nomad.AllocClientStatusRunning {
		t.Errorf("the task that was to stay is %+v, %v", now, err)
	}
	if node, _, err := s.c.Nomad.Nodes().Info(kept.NodeID, nil); err != nil || node.LastDrain != nil {
		t.Errorf("the node that was to stay was drained: %+v, %v", node.LastDrain, err)
	}
}

// wasDrained fails where a node that is about to end was not drained, or where the
// autoscaler would not know it as one that is to end.
func (s *scaling) wasDrained(ctx context.Context, t *testing.T, name string) {
	nodes, err := account.Cluster(ctx, s.c.Nomad)
	if err != nil {
		t.Error(err)
	}
	for _, n := range nodes {
		if n.Name == name && (n.Open || !n.Leaving || n.Busy) {
			t.Errorf("node %s ends: open %v, leaving %v, busy %v", name, n.Open, n.Leaving, n.Busy)
		}
	}
}

// rented are the nodes of the pool that Nomad knows.
func (s *scaling) rented() ([]*nomad.NodeListStub, error) {
	nodes, _, err := s.c.Nomad.Nodes().List(&nomad.QueryOptions{Filter: fmt.Sprintf("NodePool == %q", rentedPool)})
	return nodes, err
}

// awaitRented awaits that the cloud has started and Nomad knows so many nodes.
func (s *scaling) awaitRented(ctx context.Context, t *testing.T, want int) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 90*time.Second, fmt.Sprintf("%d nodes of the cloud", want), func() string {
		nodes, err := s.rented()
		if group := s.cloud.Now(); err != nil || len(nodes) != want || len(group.Nodes) != want || group.Wanted != want {
			return fmt.Sprintf("Nomad knows %d, the cloud is %+v, %v", len(nodes), group, err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// endNodes ends what is left of the cloud after the test and its jobs, so that the cluster
// is of one node again.
func (s *scaling) endNodes(t *testing.T) {
	t.Cleanup(func() {
		s.cloud.Close(true)
		s.cloud.Wait()
		for _, name := range s.cloud.Now().Nodes {
			s.c.StopClient(name)
		}
		nodes, err := s.rented()
		if err != nil {
			t.Error(err)
		}
		for _, node := range nodes {
			if _, _, err := s.c.Nomad.Nodes().Purge(node.ID, nil); err != nil {
				t.Error(err)
			}
		}
	})
}
