package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/coldstart"
	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/nodes/cloud"
)

const (
	autoscalerJob = "jobs/autoscaler.nomad.hcl"
	oneClassJob   = "jobs/scaling-one-class.nomad.hcl"
	twoClassesJob = "jobs/scaling-two-classes.nomad.hcl"
)

// soon are settings of the strategy that let a test wait for a count to shrink.
var soon = map[string]string{"stable_window": "6s", "down_delay": "8s", "zero_grace": "2s", "coldstart": "2s"}

// window is the history that soon needs before anything shrinks.
const window = 14 * time.Second

// TestScaling runs the autoscaler, the gateway and scaled services as the jobs that
// users run.
func TestScaling(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4"})
	s := &scaling{c: c, gateway: startScalingGateway(ctx, t, c)}
	s.startCloud(ctx, t)
	s.startAutoscaler(ctx, t)
	t.Run("from zero to many and back", func(t *testing.T) { s.burst(ctx, t) })
	t.Run("a replica that sleeps", func(t *testing.T) { s.sleeps(ctx, t) })
	t.Run("two classes, the cheapest mix", func(t *testing.T) { s.twoClasses(ctx, t) })
	t.Run("a job of another namespace", func(t *testing.T) { s.elsewhere(ctx, t) })
	t.Run("nodes follow slices", func(t *testing.T) { s.nodes(ctx, t) })
	t.Run("a benchmark of slice counts", func(t *testing.T) { s.bench(ctx, t) })
	t.Run("a job of another size", func(t *testing.T) { s.rightSize(ctx, t) })
	t.Run("an objective at two classes", func(t *testing.T) { s.objective(ctx, t) })
	t.Run("a job with deployments", func(t *testing.T) { s.deployments(ctx, t) })
	t.Run("exhausted devices are steady", func(t *testing.T) { s.exhausted(ctx, t) })
	t.Run("crashes in a burst shrink nothing", func(t *testing.T) { s.crashes(ctx, t) })
}

type scaling struct {
	c       *cluster.Cluster
	gateway string // its public URL
	cloud   *cloud.Cloud
	// cloudURL is where its target finds it.
	cloudURL string
}

// startScalingGateway starts a gateway that finds services by the Host header and
// leaves starting from zero to the autoscaler.
func startScalingGateway(ctx context.Context, t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	var services strings.Builder
	for name, settings := range map[string]string{"burst": "", "elsewhere": "", "mix": "", "deploys": "", "full": "", "crash": "", "resize": "", "sleepy": sleepySettings} {
		fmt.Fprintf(&services, "service %q {\n  consul {}\n  route {\n    hosts = [%q]\n  }\n  queue {\n    max_wait = \"5m\"\n  }\n%s}\n", name, name, settings)
	}
	for name, slo := range map[string]string{"promise": promised, "miracle": impossible} {
		fmt.Fprintf(&services, "service %q {\n  policy = \"tokens\"\n  consul {}\n  route {\n    hosts = [%q]\n  }\n  slo {\n    %s\n  }\n}\n", name, name, slo)
	}
	run(ctx, t, c, gatewayJob, cluster.Vars{
		"driver": "raw_exec", "port": 0, "drain_delay": "1s",
		"consul": strings.TrimPrefix(c.ConsulAddress, "http://"), "services": services.String(),
	}, 1)
	return "http://" + passing(ctx, t, c, "aliquot-gateway")
}

// passing awaits the one passing instance of a service and returns its address.
func passing(ctx context.Context, t *testing.T, c *cluster.Cluster, service string) (address string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 60*time.Second, service+" in Consul", func() string {
		found, _, err := c.Consul.Health().Service(service, "", true, nil)
		if err != nil || len(found) != 1 {
			return fmt.Sprintf("%d instances, %v", len(found), err)
		}
		address = fmt.Sprintf("%s:%d", found[0].Service.Address, found[0].Service.Port)
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func (s *scaling) startAutoscaler(ctx context.Context, t *testing.T) {
	t.Helper()
	agent, err := s.c.Tool(ctx, "nomad-autoscaler")
	if err != nil {
		t.Fatal(err)
	}
	run(ctx, t, s.c, autoscalerJob, cluster.Vars{
		"count": 2, "distinct_hosts": false, "lock_ttl": "10s", "agent": agent, "plugin_dir": s.plugins(t),
		"node_policies": nodePolicies(t), "node_target": "rented-nodes", "node_target_config": map[string]string{"cloud": s.cloudURL},
		"consul": strings.TrimPrefix(s.c.ConsulAddress, "http://"), "restart_agent_after": "5s", "log_level": "DEBUG", "namespaces": []string{"*"},
	}, 2)
}

// serve submits a scaled service and awaits its first evaluations.
func (s *scaling) serve(ctx context.Context, t *testing.T, file, name string, vars cluster.Vars) {
	t.Helper()
	all := cluster.Vars{"service": name, "image": s.c.Image, "memory": 64, "strategy": soon}
	for key, value := range vars {
		all[key] = value
	}
	job, err := s.c.Run(file, all)
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, s.c, *job.ID)
	s.awaitEvaluations(ctx, t, name, 2)
}

// group is the state of a task group as Nomad reports it.
func (s *scaling) group(job, name string) nomad.TaskGroupScaleStatus {
	status, _, err := s.c.Nomad.Jobs().ScaleStatus(job, nil)
	if err != nil {
		return nomad.TaskGroupScaleStatus{Desired: -1}
	}
	return status.TaskGroups[name]
}

// awaitCount awaits that a count is set.
func (s *scaling) awaitCount(ctx context.Context, t *testing.T, job, group string, want int, limit time.Duration) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, limit, fmt.Sprintf("count %d of %s/%s", want, job, group), func() string {
		if g := s.group(job, group); g.Desired != want {
			return fmt.Sprintf("it is %d", g.Desired)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

// evaluations is how often the strategy has been run for the policies of a job.
func (s *scaling) evaluations(job string) (int, error) {
	found, _, err := s.c.Consul.Health().Service("nomad-autoscaler", "", true, nil)
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("%d autoscalers in Consul, %v", len(found), err)
	}
	policies, _, err := s.c.Nomad.Scaling().ListPolicies(nil)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, agent := range found {
		n, err := runs(fmt.Sprintf("http://%s:%d/v1/metrics?format=prometheus", agent.Service.Address, agent.Service.Port), job, policies)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// runs reads from an agent's metrics how often it ran the strategy for a job.
func runs(metrics, job string, policies []*nomad.ScalingPolicyListStub) (total int, err error) {
	response, err := http.Get(metrics)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		line := lines.Text()
		mine := slices.ContainsFunc(policies, func(p *nomad.ScalingPolicyListStub) bool {
			return p.Target["Job"] == job && strings.Contains(line, p.ID)
		})
		if mine && strings.Contains(line, "plugin_strategy_run_invoke_ms_count") {
			n, _ := strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
			total += n
		}
	}
	return total, nil
}

// awaitEvaluations awaits that many more evaluations of a job.
func (s *scaling) awaitEvaluations(ctx context.Context, t *testing.T, job string, more int) {
	t.Helper()
	first := -1
	err := cluster.AwaitWithin(ctx, 3*time.Minute, "evaluations of "+job, func() string {
		n, err := s.evaluations(job)
		switch {
		case err != nil:
			return err.Error()
		case first < 0 || n < first: // a new agent counts from 0
			first = n
		case n >= first+more:
			return ""
		}
		return fmt.Sprintf("there are %d since %d", n, first)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// changes lists the counts that were set after a time, oldest first.
func changes(g nomad.TaskGroupScaleStatus, after time.Time) (counts []int64, at []time.Time) {
	for _, event := range slices.Backward(g.Events) {
		when := time.Unix(0, int64(event.Time))
		if event.Count != nil && when.After(after) {
			counts, at = append(counts, *event.Count), append(at, when)
		}
	}
	return counts, at
}

// awaitChanges is changes, of which there must be some: Nomad sets a count first and
// writes down the event after it.
func (s *scaling) awaitChanges(ctx context.Context, t *testing.T, job, group string, after time.Time) (counts []int64, at []time.Time) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 10*time.Second, "the event of a change of "+job+"/"+group, func() string {
		if counts, at = changes(s.group(job, group), after); len(at) == 0 {
			return "there is none"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return counts, at
}

func (s *scaling) burst(ctx context.Context, t *testing.T) {
	s.serve(ctx, t, oneClassJob, "burst", nil)
	s.awaitEvaluations(ctx, t, "burst", int(window/time.Second))
	began := time.Now()
	stop := s.load(ctx, t, "burst", 22)
	defer stop()
	s.awaitCount(ctx, t, "burst", "server", 7, 30*time.Second)
	counts, at := s.awaitChanges(ctx, t, "burst", "server", began)
	t.Logf("a burst of 22 requests: counts %v set %v after its start", counts, since(at, began))
	if reaction := at[0].Sub(began); reaction > 2*time.Second {
		t.Errorf("the first count was set after %v, want at most 2 s", reaction)
	}
	if _, err := s.c.AwaitRunning(ctx, "burst", 7); err != nil {
		t.Fatal(err)
	}
	s.awaitEvaluations(ctx, t, "burst", 3)
	if g := s.group("burst", "server"); g.Desired != 7 {
		t.Errorf("under the same load the count became %d", g.Desired)
	}
	s.awaitColdStarts(ctx, t, "burst", 7)
	stop()
	ended := time.Now()
	s.awaitCount(ctx, t, "burst", "server", 0, 60*time.Second)
	counts, at = s.awaitChanges(ctx, t, "burst", "server", ended)
	t.Logf("after its end: counts %v set %v later", counts, since(at, ended))
	if at[0].Sub(ended) < 6*time.Second {
		t.Errorf("the count shrank %v after the burst, before the delay of 8 s", at[0].Sub(ended))
	}
	if _, err := s.c.AwaitRunning(ctx, "burst", 0); err != nil {
		t.Error(err)
	}
}

// awaitColdStarts awaits that so many starts of replicas are known in Consul.
func (s *scaling) awaitColdStarts(ctx context.Context, t *testing.T, service string, want int) {
	t.Helper()
	var samples []coldstart.Sample
	err := cluster.AwaitWithin(ctx, 30*time.Second, "learned cold starts of "+service, func() (missing string) {
		var err error
		if samples, err = coldstart.Read(ctx, s.c.Consul, service); err != nil || len(samples) < want {
			return fmt.Sprintf("there are %d of %d, %v", len(samples), want, err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range samples {
		if one.Class != "h100" && one.Class != "t4" || one.Seconds <= 0 || one.Seconds > 60 {
			t.Errorf("learned %+v", one)
		}
	}
	p95, _ := coldstart.P95(samples, time.Now())
	t.Logf("%d cold starts were learned, the 95th percentile of the slower class is %v", len(samples), p95)
}

func since(at []time.Time, start time.Time) (out []time.Duration) {
	for _, t := range at {
		out = append(out, t.Sub(start).Round(time.Millisecond))
	}
	return out
}

func (s *scaling) deployments(ctx context.Context, t *testing.T) {
	s.serve(ctx, t, oneClassJob, "deploys", cluster.Vars{"deployments": 1})
	began := time.Now()
	stop := s.load(ctx, t, "deploys", 7)
	defer stop()
	s.awaitCount(ctx, t, "deploys", "server", 2, 30*time.Second)
	stopMore := s.load(ctx, t, "deploys", 7)
	defer stopMore()
	s.awaitCount(ctx, t, "deploys", "server", 4, 90*time.Second)
	counts, at := changes(s.group("deploys", "server"), began)
	t.Logf("counts %v set %v after the start", counts, since(at, began))
	deployments, _, err := s.c.Nomad.Jobs().Deployments("deploys", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	finished := 0
	for _, d := range deployments {
		if d.Status == nomad.DeploymentStatusSuccessful {
			finished++
		}
	}
	if finished == 0 {
		t.Error("the second count did not wait for a deployment, so that this test shows nothing")
	}
}

func (s *scaling) exhausted(ctx context.Context, t *testing.T) {
	// Two replicas of 10 slices fit on each of two GPUs.
	s.serve(ctx, t, oneClassJob, "full", cluster.Vars{"slices": 10, "max_count": 8})
	stop := s.load(ctx, t, "full", 27)
	defer stop()
	s.awaitCount(ctx, t, "full", "server", 8, 30*time.Second)
	err := cluster.AwaitWithin(ctx, 60*time.Second, "4 placed replicas and 4 that wait", func() string {
		if g := s.group("full", "server"); g.Running != 4 || s.c.Blocked("full") == "" {
			return fmt.Sprintf("%d run, blocked: %q", g.Running, s.c.Blocked("full"))
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	before := len(s.group("full", "server").Events)
	s.awaitEvaluations(ctx, t, "full", 10)
	if g := s.group("full", "server"); len(g.Events) != before || g.Desired != 8 {
		t.Errorf("10 evaluations without free devices: count %d and %d new submissions, want 8 and 0", g.Desired, len(g.Events)-before)
	}
	log := s.agentLog(ctx, t)
	if !strings.Contains(log, "8 desired, 4 placed") || !strings.Contains(log, "devices") {
		t.Error("the target does not say that devices are exhausted")
	}
}

// agentLog is what the autoscaler's agents have written.
func (s *scaling) agentLog(ctx context.Context, t *testing.T) string {
	t.Helper()
	allocs, err := s.c.AwaitRunning(ctx, "autoscaler", 2)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for _, alloc := range allocs {
		for _, stream := range []string{"stdout", "stderr"} {
			s.copyLog(ctx, t, &log, alloc, "agent", stream)
		}
	}
	return log.String()
}

func (s *scaling) copyLog(
	ctx context.Context, t *testing.T, w io.Writer, alloc *nomad.Allocation, task, stream string,
) {
	t.Helper()
	cancel := make(chan struct{})
	defer close(cancel)
	frames, failed := s.c.Nomad.AllocFS().Logs(alloc, false, task, stream, nomad.OriginStart, 0, cancel, nil)
	for {
		select {
		case frame, more := <-frames:
			if !more {
				return
			}
			_, _ = w.Write(frame.Data)
		case err := <-failed:
			t.Fatal(err)
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
}
