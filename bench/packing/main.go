// Command packing places a published workload on a published cluster of GPUs, by the
// scheduler of the Nomad release that Aliquot is built with, and prints how much of the
// GPU capacity each policy allocates. Beside it stand policies that know everything,
// in simulation: at random, best fit and the fragmentation gradient descent (FGD) of
// the paper that published the data.
//
// Nomad's part is real: its scheduler over its state in memory, the device groups that
// the device plugins would offer, the attributes that nodes would publish and the jobs
// as `aliquot job` would submit them. What is not there is time: a node publishes after
// -lag further placements.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"aliquot.example/internal/pack"
)

// marks are the demands, in percent of the cluster's GPU capacity, at which what is
// allocated is read.
var marks = []int{80, 90, 100, 110, 130}

// options are the command's flags.
type options struct {
	data      string
	every, n  int
	seed      int
	seeds     int
	most      int
	lags      string
	workloads string
	policies  string
	tuned     string
	atOnce    int
	whole     float64
}

func main() {
	var o options
	flag.StringVar(&o.data, "data", "../shared/data/packing", "directory of the published data")
	flag.IntVar(&o.every, "every", 4, "take every nth node: 1 for all 1,213")
	flag.IntVar(&o.n, "slices", 20, "slices of a GPU")
	flag.IntVar(&o.seed, "seed", 42, "seed of the first order of arrival")
	flag.IntVar(&o.seeds, "seeds", 3, "orders of arrival, from -seed on")
	flag.IntVar(&o.most, "most", 130, "demand to stop at, in percent of capacity")
	flag.StringVar(&o.lags, "lags", "0,50", "placements after which a node publishes, for -pack=fragmentation")
	flag.StringVar(&o.workloads, "workloads", "default,gpushare60", "")
	flag.StringVar(&o.policies, "policies", "random,bestfit,fgd,none,spread,best-fit,fragmentation",
		"random, bestfit and fgd are simulated; "+
			"none, best-fit, spread and fragmentation are Nomad's scheduler with this -pack")
	flag.StringVar(&o.tuned, "tuned", "", "workload that is the typical demand, where it is not the one that runs")
	flag.IntVar(&o.atOnce, "at-once", 2, "runs side by side")
	flag.Float64Var(&o.whole, "whole", 0,
		"percent of the GPUs that nodes offer whole, for tasks of several GPUs: those then ask for them "+
			"by one request, as a task of the aliquot driver has to; 0: by one request for all slices of each GPU, "+
			"as the comparison does")
	flag.Parse()
	debug.SetGCPercent(400) // the state only grows
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "packing:", err)
		os.Exit(1)
	}
}

// result is one order of arrival under one policy.
type result struct {
	percent []float64 // at each of marks
	tasks   int
	writes  int
	spent   time.Duration // in the scheduler
}

func (o options) run() error {
	machines, err := readCluster(o.data, o.every)
	if err != nil {
		return err
	}
	if o.whole > 0 {
		machines = apart(machines, o.whole/100)
	}
	fmt.Printf("%d nodes, %.0f GPUs in %d slices each; allocated GPU %% when the demand is … %% of capacity; "+
		"mean of %d orders from seed %d\n\n", len(machines), capacity(machines), o.n, o.seeds, o.seed)
	for _, name := range strings.Split(o.workloads, ",") {
		tasks, err := o.tasks(name)
		if err != nil {
			return err
		}
		typical := tasks
		if o.tuned != "" {
			if typical, err = o.tasks(o.tuned); err != nil {
				return err
			}
		}
		if err := o.workload(name, machines, tasks, demandOf(typical, o.n)); err != nil {
			return err
		}
	}
	return nil
}

func (o options) tasks(workload string) ([]task, error) {
	out, err := readTasks(o.data, workload)
	for i := range out {
		out[i].whole = o.whole > 0
	}
	return out, err
}

// workload prints a row for each policy as it ends.
func (o options) workload(name string, machines []machine, tasks []task, demand pack.Demand) error {
	fmt.Printf("%s, %d classes\n", name, len(demand.Classes()))
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "policy\t")
	for _, m := range marks {
		if m <= o.most {
			fmt.Fprintf(out, "at %d\t", m)
		}
	}
	fmt.Fprint(out, "placements/s\tnode writes\t\n")
	for _, c := range o.contenders() {
		results := make([]result, o.seeds)
		errs := make([]error, o.seeds)
		slots := make(chan struct{}, o.atOnce)
		var runs sync.WaitGroup
		for i := range results {
			runs.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				seed := uint64(o.seed + i)
				var p placer
				if p, errs[i] = c.make(machines, o.n, seed, demand); errs[i] == nil {
					results[i], errs[i] = replay(p, arrivals(tasks, capacity(machines), float64(o.most)/100, seed),
						capacity(machines))
				}
			})
		}
		runs.Wait()
		for _, err := range errs {
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		row(out, c.name, results)
		if err := out.Flush(); err != nil {
			return err
		}
	}
	fmt.Println()
	return nil
}

func row(out *tabwriter.Writer, name string, results []result) {
	fmt.Fprintf(out, "%s\t", name)
	for i := range results[0].percent {
		sum := 0.0
		for _, r := range results {
			sum += r.percent[i]
		}
		fmt.Fprintf(out, "%.2f\t", sum/float64(len(results)))
	}
	var total result
	for _, r := range results {
		total.tasks, total.writes, total.spent = total.tasks+r.tasks, total.writes+r.writes, total.spent+r.spent
	}
	if total.spent > 0 {
		fmt.Fprintf(out, "%.0f\t%d\t\n", float64(total.tasks)/total.spent.Seconds(), total.writes/len(results))
	} else {
		fmt.Fprint(out, "\t\t\n")
	}
}

// replay places all tasks and reads what is allocated at each mark.
func replay(p placer, tasks []task, capacity float64) (result, error) {
	var r result
	arrived, allocated := 0.0, 0.0
	for _, t := range tasks {
		ok, err := p.place(t)
		if err != nil {
			return r, err
		}
		if ok {
			allocated += t.gpu()
		}
		arrived += t.gpu()
		for len(r.percent) < len(marks) && arrived*100 >= float64(marks[len(r.percent)])*capacity {
			r.percent = append(r.percent, 100*allocated/capacity)
		}
	}
	r.tasks = len(tasks)
	if c, ok := p.(*cluster); ok {
		r.spent, r.writes = c.spent, c.writes
	}
	return r, nil
}
