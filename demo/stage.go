package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/api"
)

// rackName is the demo's NVIDIA rack: one H100 and two T4. The host also has an MI300X.
const rackName = "h100-2xt4"

// modelMiB is the GPU memory that a replica takes. It fits into 3 of 20 slices of a T4.
const modelMiB = 2048

// slicesTotal is the number of slices into which the plugins divide a GPU by default.
const slicesTotal = 20

// class is a hardware class of the service chat.
type class struct {
	Slices int `json:"slices"`
	Slots  int `json:"slots"`
	Cost   int `json:"cost"`
	Max    int `json:"max"`
}

var chatClasses = map[string]class{
	"t4":     {Slices: 10, Slots: 2, Cost: 1, Max: 4},
	"mi300x": {Slices: 5, Slots: 4, Cost: 5, Max: 3},
	"h100":   {Slices: 5, Slots: 4, Cost: 6, Max: 2},
}

// A replica of the service code takes codeSlices slices of an H100, in addition to those of chat.
const codeClass, codeSlices = "h100", 3

// services are the gateway's services. A call names its service as the model. If a service has no
// replica, the gateway starts the cheapest kind.
const services = `service "chat" {
  consul {}
  route {
    models = ["chat"]
  }
  queue {
    max_wait = "3m"
  }
  wake {
    target {
      job   = "chat"
      group = "t4"
      cost  = 1
    }
    target {
      job   = "chat"
      group = "mi300x"
      cost  = 5
    }
    target {
      job   = "chat"
      group = "h100"
      cost  = 6
    }
  }
}
service "code" {
  consul {}
  route {
    models = ["code"]
  }
  queue {
    max_wait = "3m"
  }
  wake {
    target {
      job   = "code"
      group = "server"
      cost  = 1
    }
  }
}`

// The replay is a tenant of the gateway, so that its requests are counted separately from other
// requests.
const (
	tenantHeader = "X-Tenant"
	replayTenant = "replay"
	settings     = "tenants {\n  header = \"" + tenantHeader + "\"\n  tenant \"" + replayTenant +
		"\" {\n    declare_cost = true\n  }\n}\n"
)

// strategy makes counts shrink within the length of a demo. The defaults are for models that take
// minutes to load.
var strategy = map[string]string{"stable_window": "6s", "down_delay": "12s", "zero_grace": "3s", "coldstart": "4s"}

// rate and prefill are the tokens per second of one slot on a whole H100: generated tokens and
// prompt tokens.
const rate, prefill = 1000.0, 50000.0

// modelArgs makes the stand-in model take time to load, and serve so slowly that an answer takes
// seconds on a slice of a T4 and a fraction of a second on one of an H100.
func modelArgs(slots int) []string {
	return []string{"-slots", strconv.Itoa(slots), "-rate", fmt.Sprint(rate), "-prefill", fmt.Sprint(prefill),
		"-gpu-memory", strconv.Itoa(modelMiB), "-cold-start", "2s", "-drain", "5m"}
}

// stage is the running demo.
type stage struct {
	*cluster.Cluster
	gateway string // URL
	admin   string // URL of the gateway's admin listener
	page    string // URL of the page
}

// setUp starts the cluster and submits the jobs of jobs/.
func setUp(ctx context.Context) (*stage, error) {
	amd := &cluster.AMD{GPUs: rack.AMDHost(rack.MI300X, 1, "", ""), Release: "26.2"}
	c, err := cluster.Start(ctx, cluster.Options{Rack: rackName, AMD: amd, Registry: true, Progress: os.Stdout})
	if err != nil {
		return nil, err
	}
	s := &stage{Cluster: c}
	if err := s.submit(ctx); err != nil {
		return s, err
	}
	return s, s.awaitReady(ctx)
}

func (s *stage) submit(ctx context.Context) error {
	agent, err := s.Tool(ctx, "nomad-autoscaler")
	if err != nil {
		return err
	}
	consul := strings.TrimPrefix(s.ConsulAddress, "http://")
	program := cluster.Vars{"driver": "raw_exec", "consul": consul}
	with := func(more cluster.Vars) cluster.Vars {
		all := cluster.Vars{}
		for _, vars := range []cluster.Vars{program, more} {
			for name, value := range vars {
				all[name] = value
			}
		}
		return all
	}
	for _, job := range []struct {
		file string
		vars cluster.Vars
	}{
		{"jobs/gateway.nomad.hcl", with(cluster.Vars{"port": 0, "drain_delay": "1s", "services": services,
			"settings": settings})},
		{"jobs/router.nomad.hcl", with(cluster.Vars{"count": 1})},
		{"jobs/ui.nomad.hcl", with(cluster.Vars{"port": 0, "nomad_ui": s.NomadAddress})},
		{"jobs/autoscaler.nomad.hcl", cluster.Vars{
			"count": 1, "distinct_hosts": false, "agent": agent, "plugin_dir": filepath.Dir(s.Program("aliquot-apm")),
			"consul": consul,
		}},
		{"jobs/scaling-two-classes.nomad.hcl", cluster.Vars{
			"service": chat, "image": s.Image, "classes": chatClasses, "args": modelArgs(4), "memory": 64,
			"strategy": strategy,
		}},
		{"jobs/scaling-one-class.nomad.hcl", cluster.Vars{
			"service": code, "image": s.Image, "class": codeClass, "slices": codeSlices, "slots": 2, "max_count": 3,
			"args": modelArgs(2), "memory": 64, "strategy": strategy,
		}},
	} {
		s.Say("nomad job run %s", job.file)
		if _, err := s.Run(job.file, job.vars); err != nil {
			return err
		}
	}
	return nil
}

// awaitReady waits for the daemons to be healthy in Consul.
func (s *stage) awaitReady(ctx context.Context) error {
	s.Say("waiting for gateway, router, autoscaler and page")
	for _, name := range []string{"aliquot-gateway", "aliquot-router", "nomad-autoscaler", "aliquot-ui"} {
		err := cluster.AwaitWithin(ctx, 60*time.Second, name+" in Consul", func() string {
			found, _, err := s.Consul.Health().Service(name, "", true, nil)
			if err != nil {
				return err.Error()
			}
			if len(found) != 1 {
				return fmt.Sprintf("%d healthy instances", len(found))
			}
			it := found[0].Service
			switch at := fmt.Sprintf("http://%s:%d", it.Address, it.Port); name {
			case api.GatewayService:
				s.gateway, s.admin = at, "http://"+it.Meta[api.MetaAdmin]
			case "aliquot-ui":
				s.page = at
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	s.Say("ready: requests can be sent to %s", s.gateway)
	s.Say("the page is at %s", s.page)
	return nil
}
