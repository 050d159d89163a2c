package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/cluster"
)

const (
	gatewayJob = "jobs/gateway.nomad.hcl"
	httpJob    = "jobs/http.nomad.hcl"
)

// TestGateway runs the gateway from the job that users run, in front of a model server's job.
func TestGateway(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4"})
	g := startGateway(ctx, t, c)
	t.Run("from zero", func(t *testing.T) { fromZero(ctx, t, c, g) })
	t.Run("discovery and learned rates", func(t *testing.T) { discovery(ctx, t, c, g) })
	t.Run("Nomad's own service discovery", func(t *testing.T) { nativeDiscovery(ctx, t, c, g) })
	t.Run("no failed request while a job is updated", func(t *testing.T) { updateUnderLoad(ctx, t, c, g) })
	t.Run("a gateway that is stopped loses no request", func(t *testing.T) { stopUnderLoad(ctx, t, c, g) })
	t.Run("three gateways are one queue", func(t *testing.T) { severalGateways(ctx, t, c) })
}

// gatewayUnderTest holds the addresses of a running gateway.
type gatewayUnderTest struct{ job, public, admin string }

// appVars returns the variables of httpJob that are the same within a test.
func appVars(c *cluster.Cluster, count int) cluster.Vars {
	return cluster.Vars{"service": "app", "image": c.Image, "count": count, "concurrency": 2, "cpu": 50, "memory": 64}
}

func startGateway(ctx context.Context, t *testing.T, c *cluster.Cluster, more ...string) gatewayUnderTest {
	t.Helper()
	vars := cluster.Vars{
		"driver": "raw_exec", "port": 0, "drain_delay": "1s",
		"consul": strings.TrimPrefix(c.ConsulAddress, "http://"),
		"services": `service "native" {
  nomad {}
  route {
    path_prefix = "/v1/ready"
  }
}
service "app" {
  consul {}
  wake {
    target {
      job   = "app"
      group = "server"
      cost  = 1
    }
  }
}
` + strings.Join(more, "\n"),
	}
	run(ctx, t, c, gatewayJob, vars, 1)
	g := gatewayUnderTest{job: "gateway"}
	err := cluster.AwaitWithin(ctx, 30*time.Second, "the gateway in Consul", func() string {
		found, _, err := c.Consul.Health().Service("aliquot-gateway", "", true, nil)
		if err != nil || len(found) != 1 {
			return fmt.Sprintf("%d instances, %v", len(found), err)
		}
		s := found[0].Service
		g.public, g.admin = fmt.Sprintf("http://%s:%d", s.Address, s.Port), "http://"+s.Meta["admin"]
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ask sends one request for one token. It is a POST, which a proxy must not repeat if the server
// may have processed it.
func (g gatewayUnderTest) ask(ctx context.Context) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.public+"/v1/completions", strings.NewReader(`{"model":"m","prompt":"hello","max_tokens":1}`))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(bytes.TrimSpace(body)), err
}

// fromZero sends a request to a service without replicas, and measures what the gateway adds to the
// time of Nomad, Docker and the health check.
func fromZero(ctx context.Context, t *testing.T, c *cluster.Cluster, g gatewayUnderTest) {
	job, err := c.Run(httpJob, appVars(c, 0))
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	passing := make(chan time.Time, 1)
	go func() { passing <- firstPassing(ctx, c, "app") }()
	var wait sync.WaitGroup
	first := make(chan time.Time, 5)
	began := time.Now()
	for range 5 {
		wait.Go(func() {
			if status, body, err := g.ask(ctx); err != nil || status != 200 {
				t.Errorf("a request that waited for the first replica: %d %q %v", status, body, err)
			}
			first <- time.Now()
		})
	}
	wait.Wait()
	answered := <-first
	if t.Failed() {
		return
	}
	allocs, err := c.AwaitRunning(ctx, "app", 1)
	if err != nil {
		t.Fatal(err)
	}
	created := time.Unix(0, allocs[0].CreateTime)
	ready := <-passing
	again := time.Now()
	if _, _, err := g.ask(ctx); err != nil {
		t.Fatal(err)
	}
	service := time.Since(again)
	added := created.Sub(began) + answered.Sub(ready) - service
	t.Logf("to the allocation %v, to its passing check %v, to the first answer %v, of which service %v: added %v",
		created.Sub(began), ready.Sub(began), answered.Sub(began), service, added)
	if added > 500*time.Millisecond {
		t.Errorf("the gateway added %v to the start of the replica, want at most 0.5 s", added)
	}
	scaled := 0
	status, _, err := c.Nomad.Jobs().ScaleStatus("app", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range status.TaskGroups["server"].Events {
		if event.Count != nil && strings.Contains(event.Message, "aliquot gateway") {
			scaled++
		}
	}
	if scaled != 1 {
		t.Errorf("five waiting requests made %d requests to scale, want 1", scaled)
	}
}

// firstPassing waits for the first passing instance of a service and returns when Consul reported
// it.
func firstPassing(ctx context.Context, c *cluster.Cluster, service string) time.Time {
	var index uint64
	for ctx.Err() == nil {
		found, meta, err := c.Consul.Health().Service(service, "", true, (&consul.QueryOptions{WaitIndex: index}).WithContext(ctx))
		if err == nil && len(found) > 0 {
			break
		}
		if err == nil {
			index = meta.LastIndex
		}
	}
	return time.Now()
}

// discovery scales the service. It expects that the gateway knows the grants of the replicas and
// publishes what it learned about them.
func discovery(ctx context.Context, t *testing.T, c *cluster.Cluster, g gatewayUnderTest) {
	vars := appVars(c, 3)
	job, err := c.Run(httpJob, vars)
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *job.ID)
	type replica struct {
		Class         string `json:"class"`
		Slots, Slices int
	}
	var known []struct {
		Service  string    `json:"service"`
		Replicas []replica `json:"replicas"`
	}
	err = cluster.AwaitWithin(ctx, time.Minute, "three replicas at the gateway", func() string {
		if err := g.read("/v1/services", &known); err != nil {
			return err.Error()
		}
		if len(known) != 2 || len(known[1].Replicas) != 3 {
			return fmt.Sprintf("%+v", known)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range known[1].Replicas {
		if (r.Class != "h100" && r.Class != "t4") || r.Slots != 2 || r.Slices != 2 {
			t.Errorf("a replica is known as %+v", r)
		}
	}
	for range 40 {
		if status, body, err := g.ask(ctx); err != nil || status != 200 {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	err = cluster.AwaitWithin(ctx, 30*time.Second, "learned rates in Consul", func() string {
		pairs, _, err := c.Consul.KV().List("aliquot/rates/app/", nil)
		if err != nil || len(pairs) == 0 {
			return fmt.Sprintf("no key, %v", err)
		}
		var doc struct {
			Version int
			Classes map[string]struct{ Rate, Slots, N, ReplicaRate float64 }
		}
		if err := json.Unmarshal(pairs[0].Value, &doc); err != nil {
			return err.Error()
		}
		for class, r := range doc.Classes {
			if r.Rate > 0 && r.Slots == 2 && r.N > 0 && doc.Version == 1 && (class == "h100" || class == "t4") {
				return ""
			}
		}
		return string(pairs[0].Value)
	})
	if err != nil {
		t.Error(err)
	}
	var series struct {
		Series []struct {
			T      int64
			Active float64
		}
	}
	if err := g.read("/v1/services/app/concurrency?window=60s", &series); err != nil {
		t.Fatal(err)
	}
	busy := 0.0
	for _, p := range series.Series {
		busy += p.Active
	}
	if busy <= 0 {
		t.Errorf("%d seconds of concurrency show no request", len(series.Series))
	}
}

// nativeDiscovery finds a service that is registered in Nomad and described by tags. Its server is
// the admin listener of another gateway.
func nativeDiscovery(ctx context.Context, t *testing.T, c *cluster.Cluster, g gatewayUnderTest) {
	submit(ctx, t, c, fmt.Sprintf(`job "native" {
  group "server" {
    network {
      port "http" {}
    }
    task "server" {
      driver = "raw_exec"
      config {
        command = %q
        args    = ["gateway", "-config", "local/gateway.hcl"]
      }
      template {
        destination = "local/gateway.hcl"
        data        = <<-HCL
          listen {
            address = "127.0.0.1:0"
          }
          admin {
            address = ":{{ env "NOMAD_PORT_http" }}"
          }
          service "none" {
            replica {
              address = "127.0.0.1:1"
            }
          }
        HCL
      }
      service {
        name     = "native"
        port     = "http"
        provider = "nomad"
        tags     = ["gpu_class=l4", "concurrency=3", "aliquot_slices=5"]
      }
    }
  }
}`, c.Program("aliquot")), nil)
	err := cluster.AwaitWithin(ctx, time.Minute, "an answer by way of Nomad's discovery", func() string {
		res, err := http.Get(g.public + "/v1/ready")
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if string(body) != "ready\n" {
			return string(body)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	var known []struct {
		Replicas []struct {
			Class         string `json:"class"`
			Slots, Slices int
		} `json:"replicas"`
	}
	if err := g.read("/v1/services", &known); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(known[0].Replicas); got != "[{l4 3 5}]" {
		t.Errorf("the replica is known as %s", got)
	}
}

// read reads JSON from the admin listener.
func (g gatewayUnderTest) read(path string, into any) error {
	res, err := http.Get(g.admin + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(into)
}
