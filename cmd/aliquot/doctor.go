package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/cli"
	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/doctor"
	"aliquot.example/internal/driver"
	"aliquot.example/internal/host"
	"aliquot.example/internal/host/inventory"
	"aliquot.example/internal/mps"
)

type doctorCommand struct{ ui cli.Ui }

func (doctorCommand) Synopsis() string { return "Find what keeps a node from serving GPUs well" }

func (doctorCommand) Help() string {
	return `Usage: aliquot doctor [-json] [-cache-socket=<path>]

  Examines the Nomad agent of a client node and prints one line per check, with a
  fix for each check that is not ok. Run it on the node, or point NOMAD_ADDR at it.
  NOMAD_TOKEN needs agent:read and node:read.

  Exits with 1 if a check failed, with 2 if the agent cannot be reached.

Options:

  -json          Print the findings as JSON. Default false.
  -cache-socket  Socket of the node's model cache. If it does not exist, the cache is
                 not checked. Default /run/aliquot/cache.sock.

Example:

  NOMAD_ADDR=http://gpu-7.example.com:4646 aliquot doctor
`
}

func (c doctorCommand) Run(args []string) int {
	flags := newFlags("doctor", c.ui)
	asJSON := flags.Bool("json", false, "")
	socket := flags.String("cache-socket", cacheapi.Socket, "")
	if !flags.parse(args) {
		return 2
	}
	facts, err := examine()
	if err != nil {
		c.ui.Error("aliquot doctor: " + flat(err))
		return 2
	}
	askCache(*socket, &facts)
	findings := doctor.Examine(facts)
	if *asJSON {
		out, _ := json.MarshalIndent(findings, "", "  ")
		c.ui.Output(string(out))
	}
	status := 0
	for _, f := range findings {
		if !*asJSON {
			c.ui.Output(fmt.Sprintf("%-4s  %-9s  %s", f.Level, f.Check, f.What))
			if f.Fix != "" {
				c.ui.Output("                 fix: " + f.Fix)
			}
		}
		if f.Level == doctor.Failure {
			status = 1
		}
	}
	return status
}

func examine() (doctor.Facts, error) {
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return doctor.Facts{}, err
	}
	var f doctor.Facts
	// Agent().Self returns its errors as text only; unreached needs their types.
	if _, err = client.Raw().Query("/v1/agent/self", &f.Agent, nil); err != nil {
		return f, fmt.Errorf("cannot ask the Nomad agent at %s: %w (%s)", client.Address(), err, unreached(err))
	}
	if id := f.Agent.Stats["client"]["node_id"]; id != "" {
		if f.Node, _, err = client.Nodes().Info(id, nil); err != nil {
			return f, fmt.Errorf("cannot read node %s: %w", id, err)
		}
	}
	asks(client, &f)
	if members, err := client.Agent().Members(); err == nil {
		for _, m := range members.Members {
			f.Servers = append(f.Servers, m.Tags["build"])
		}
	}
	_, err = os.Stat("/tmp/nvidia-mps")
	f.DefaultMPSDirectory = err == nil
	f.MPSDaemons, f.Unnamed = mps.Daemons(), unnamed()
	f.Host = hostFacts(f.Node)
	return f, nil
}

// hostFacts reads the GPUs and drivers of this host. It returns nil if the node is another host,
// or if the host cannot be read.
func hostFacts(n *api.Node) *driver.Facts {
	name, err := os.Hostname()
	if n == nil || err != nil || n.Attributes["unique.hostname"] != name {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	facts, err := inventory.Read(ctx, host.Running, false)
	if err != nil {
		return nil
	}
	return &facts
}

// askCache asks the node's cache for its status, if its socket exists.
func askCache(socket string, f *doctor.Facts) {
	if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := cacheapi.NewClient(socket).Status(ctx)
	if err != nil {
		f.CacheProblem = flat(err)
		return
	}
	f.Cache = &status
}

// unreached returns the fix for an agent that cannot be reached.
func unreached(err error) string {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &authority):
		return "set NOMAD_CACERT to the file of the CA that signed the agent's certificate"
	case errors.As(err, &name):
		return "the certificate is for another name: set NOMAD_TLS_SERVER_NAME, for example to client.global.nomad"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the agent speaks plain HTTP: write http:// into NOMAD_ADDR"
	}
	return "run this on a client node, or set NOMAD_ADDR; with ACLs, set NOMAD_TOKEN too"
}

// maxJobs is the largest number of jobs that asks reads.
const maxJobs = 1000

// asks reads the device requests of the jobs in all namespaces, and whether the scheduler
// preempts.
func asks(client *api.Client, f *doctor.Facts) {
	all := &api.QueryOptions{Namespace: api.AllNamespacesNamespace}
	stubs, _, err := client.Jobs().List(all)
	for i, stub := range stubs {
		if stub.Stop || i >= maxJobs {
			continue
		}
		job, _, failed := client.Jobs().Info(stub.ID, &api.QueryOptions{Namespace: stub.Namespace})
		var answer api.UnexpectedResponseError
		if errors.As(failed, &answer) && answer.StatusCode() == http.StatusNotFound {
			continue // it was removed after the list was read
		}
		if failed != nil {
			err = failed
			continue
		}
		f.Asks = append(f.Asks, doctor.AsksOf(job)...)
		f.Bridged = append(f.Bridged, doctor.BridgedOf(job)...)
	}
	if err != nil {
		f.JobsProblem = flat(err)
	}
	if c, _, err := client.Operator().SchedulerGetConfiguration(nil); err == nil && c.SchedulerConfig != nil {
		f.Preemption = c.SchedulerConfig.PreemptionConfig.ServiceSchedulerEnabled ||
			c.SchedulerConfig.PreemptionConfig.BatchSchedulerEnabled
	}
}
