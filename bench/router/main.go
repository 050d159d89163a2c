// Command router measures the reconcile loop of `aliquot router` with a real Consul server: many
// services from a cold start, and single changes.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/weigh"
)

var classes = []string{"h100", "l4", "mi300x", "a100-80gb"}

func main() {
	services := flag.Int("services", 500, "number of services")
	instances := flag.Int("instances", 40, "instances of each service")
	changes := flag.Int("changes", 20, "measured single changes")
	flag.Parse()
	if err := run(*services, *instances, *changes); err != nil {
		fmt.Fprintln(os.Stderr, "bench/router:", err)
		os.Exit(1)
	}
}

// bench is one Consul server with its services.
type bench struct {
	*consultest.Server
	services, instances int
	program             string
}

func run(services, instances, changes int) error {
	dir, err := os.MkdirTemp("", "aliquot-bench-router")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{services: services, instances: instances, program: filepath.Join(dir, "aliquot")}
	if out, err := exec.Command("go", "build", "-o", b.program,
		"aliquot.example/cmd/aliquot").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	b.Server, err = consultest.Start(dir, map[string]any{"limits": map[string]any{"http_max_conns_per_client": 4000}})
	if err != nil {
		return err
	}
	defer b.Stop()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		b.Stop()
		os.RemoveAll(dir)
		os.Exit(1)
	}()
	if err := b.fill(); err != nil {
		return err
	}
	fmt.Printf("%d services x %d instances in %d classes, one Consul server, router and server on the same machine\n\n",
		services, instances, len(classes))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w,
		"connections\tfrom cold\tCPU of router\tof Consul\tload\tone change, p50\tmax\tCPU per change beyond idle, "+
			"mean\tmax\tidle CPU\t")
	for _, connections := range []int{services + 100, 180} {
		if err := b.round(w, dir, connections, changes); err != nil {
			return err
		}
		w.Flush()
		if err := b.clear(); err != nil {
			return err
		}
	}
	return nil
}

func name(i int) string                 { return fmt.Sprintf("svc-%03d", i) }
func instance(svc string, j int) string { return fmt.Sprintf("%s-%02d", svc, j) }

// fill registers all instances, 30 per transaction.
func (b *bench) fill() error {
	node := func(j int) string { return fmt.Sprintf("gpu-%02d", j%20) }
	for j := range 20 {
		if _, err := b.Client.Catalog().Register(&api.CatalogRegistration{Node: node(j), Address: "10.0.0.1"},
			nil); err != nil {
			return err
		}
	}
	var ops api.TxnOps
	flush := func() error {
		ok, answer, _, err := b.Client.Txn().Txn(ops, nil)
		if err == nil && !ok {
			err = fmt.Errorf("registration: %v", answer.Errors[0].What)
		}
		ops = nil
		return err
	}
	for i := range b.services {
		for j := range b.instances {
			svc := name(i)
			ops = append(ops,
				&api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: node(j), Service: api.AgentService{
					ID: instance(svc, j), Service: svc, Port: 8000,
					Meta: map[string]string{"gpu_class": classes[j%len(classes)],
						"aliquot_route": "true", "concurrency": "8"},
				}}},
				&api.TxnOp{Check: &api.CheckTxnOp{Verb: api.CheckSet,
					Check: check(node(j), instance(svc, j), api.HealthPassing)}})
			if len(ops) >= 60 {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

func check(node, id, status string) api.HealthCheck {
	return api.HealthCheck{Node: node, CheckID: "check:" + id, ServiceID: id, Name: "check", Status: status}
}

// round runs one router: from a cold start until all entries are right, then with single changes.
func (b *bench) round(w *tabwriter.Writer, dir string, connections, changes int) error {
	file := filepath.Join(dir, "router.hcl")
	text := fmt.Sprintf("consul {\n  address = %q\n  max_connections = %d\n}\nlog_level = \"error\"\n", b.Address,
		connections)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	start, serverBefore := time.Now(), cpu(b.PID())
	router := exec.Command(b.program, "router", "-config", file)
	router.Stderr = os.Stderr
	if err := router.Start(); err != nil {
		return err
	}
	defer func() {
		_ = router.Process.Signal(syscall.SIGTERM)
		_ = router.Wait()
	}()
	if err := b.awaitAll(); err != nil {
		return err
	}
	cold, coldCPU, serverCPU, load := time.Since(start), cpu(router.Process.Pid), cpu(b.PID())-serverBefore,
		loadAverage()
	idle, err := b.idle(router.Process.Pid)
	if err != nil {
		return err
	}
	var took, used []time.Duration
	for n := range changes {
		before := cpu(router.Process.Pid)
		t, err := b.change(n)
		if err != nil {
			return err
		}
		background := time.Duration(float64(t) * idle / 100)
		took, used = append(took, t), append(used, max(0, cpu(router.Process.Pid)-before-background))
	}
	slices.Sort(took)
	fmt.Fprintf(w, "%d\t%.2f s\t%.2f s\t%.2f s\t%s\t%s\t%s\t%.1f ms\t%.1f ms\t%.1f%%\t\n", connections, cold.Seconds(),
		coldCPU.Seconds(), serverCPU.Seconds(), load,
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), mean(used),
		float64(slices.Max(used))/1e6, idle)
	return nil
}

// loadAverage returns the machine's load average over one minute.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

func mean(v []time.Duration) float64 {
	sum := time.Duration(0)
	for _, d := range v {
		sum += d
	}
	return float64(sum) / float64(len(v)) / 1e6
}

// idle returns the router's CPU use, in percent of one core, while nothing changes. It includes the
// router's audits.
func (b *bench) idle(pid int) (float64, error) {
	const span = 12 * time.Second
	settle := time.NewTimer(6 * time.Second) // the first audit reads the indexes of everything written
	<-settle.C
	before := cpu(pid)
	timer := time.NewTimer(span)
	<-timer.C
	return float64(cpu(pid)-before) / float64(span) * 100, nil
}

// awaitAll waits until every service has the right splitter.
func (b *bench) awaitAll() error {
	counts := make([]int, len(classes))
	for j := range b.instances {
		counts[j%len(classes)]++
	}
	want := shares(counts)
	right := func(svc string) bool {
		e, _, err := b.Client.ConfigEntries().Get(api.ServiceSplitter, svc, nil)
		if err != nil {
			return false
		}
		for _, s := range e.(*api.ServiceSplitterConfigEntry).Splits {
			if want[s.ServiceSubset] != int(s.Weight*100+0.5) {
				return false
			}
		}
		return true
	}
	for i := range b.services {
		if err := await(2*time.Minute, func() bool { return right(name(i)) }); err != nil {
			return err
		}
	}
	return nil
}

// change makes all instances of one class of one service unhealthy and waits until that class has
// weight 0.
func (b *bench) change(n int) (time.Duration, error) {
	svc := name((n * 37) % b.services)
	node := func(j int) string { return fmt.Sprintf("gpu-%02d", j%20) }
	var ops api.TxnOps
	for j := 0; j < b.instances; j += len(classes) {
		ops = append(ops, &api.TxnOp{Check: &api.CheckTxnOp{Verb: api.CheckSet,
			Check: check(node(j), instance(svc, j), api.HealthCritical)}})
	}
	start := time.Now()
	if ok, _, _, err := b.Client.Txn().Txn(ops, nil); err != nil || !ok {
		return 0, fmt.Errorf("change: %v %w", ok, err)
	}
	err := await(10*time.Second, func() bool {
		e, _, err := b.Client.ConfigEntries().Get(api.ServiceSplitter, svc, nil)
		if err != nil {
			return false
		}
		for _, s := range e.(*api.ServiceSplitterConfigEntry).Splits {
			if s.ServiceSubset == classes[0] && s.Weight == 0 {
				return true
			}
		}
		return false
	})
	return time.Since(start), err
}

// clear removes all entries and makes all instances healthy.
func (b *bench) clear() error {
	kinds := weigh.Kinds()
	slices.Reverse(kinds)
	for _, kind := range kinds {
		list, _, err := b.Client.ConfigEntries().List(string(kind), nil)
		if err != nil {
			return err
		}
		for _, e := range list {
			if _, err := b.Client.ConfigEntries().Delete(string(kind), e.GetName(), nil); err != nil {
				return err
			}
		}
	}
	return b.fill()
}

func shares(counts []int) map[string]int {
	var all []weigh.Instance
	for _, class := range classes {
		all = append(all, weigh.Instance{Group: weigh.Group{Class: class}})
	}
	weights := weigh.Weights(all, nil, nil, nil, weigh.DefaultTrust(), time.Now())
	var loads []weigh.Load
	for i, class := range classes {
		loads = append(loads, weigh.Load{Group: class, Count: counts[i], Rate: weights[class].Value})
	}
	out := map[string]int{}
	result, _ := weigh.Shares(loads)
	for _, s := range result {
		out[s.Group] = s.Hundredths
	}
	return out
}

func await(limit time.Duration, done func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); !done(); <-tick.C {
		if time.Since(start) > limit {
			return fmt.Errorf("not done after %s", limit)
		}
	}
	return nil
}

// cpu returns the CPU time of a process: the sum over its threads of the first figure in schedstat,
// in nanoseconds.
func cpu(pid int) time.Duration {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var ran int64
		if _, err := fmt.Sscan(string(text), &ran); err == nil {
			sum += time.Duration(ran)
		}
	}
	return sum
}
