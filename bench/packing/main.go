// Command packing places a published workload on a published cluster of GPUs with the
// scheduler of the Nomad release that Aliquot is built with. It prints how much of the
// GPU capacity each policy allocates, and at 100% demand why the rest is lost. For
// comparison it simulates policies that know the whole cluster: random, best fit and the
// fragmentation gradient descent (FGD) of the paper that published the data.
//
// Nomad's scheduler is real and reads its state from memory. The device groups are those
// of the device plugins, the attributes those that nodes publish, and the jobs those that
// `aliquot job` submits. Time is missing: a node publishes after a number of further
// placements, which -lags sets.
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

// marks are the demands, in percent of the cluster's GPU capacity, at which the allocated
// capacity is read.
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
	flag.IntVar(&o.seed, "seed", 42, "seed of the first order of arrivals")
	flag.IntVar(&o.seeds, "seeds", 3, "number of orders of arrival, with seeds from -seed")
	flag.IntVar(&o.most, "most", 130, "demand at which to stop, in percent of capacity")
	flag.StringVar(&o.lags, "lags", "0,50", "placements after which a node publishes, for -pack=fragmentation")
	flag.StringVar(&o.workloads, "workloads", "default,gpushare60", "workloads to place")
	flag.StringVar(&o.policies, "policies", "random,bestfit,fgd,none,spread,best-fit,fragmentation",
		"random, bestfit, fgd and levels are simulated, levels with the scores of fragmentation; "+
			"none, best-fit, spread and fragmentation are Nomad's scheduler with this -pack")
	flag.StringVar(&o.tuned, "tuned", "",
		"workload whose typical demand is used; if empty, that of the workload that runs")
	flag.IntVar(&o.atOnce, "at-once", 2, "number of concurrent runs")
	flag.Float64Var(&o.whole, "whole", 0,
		"percent of the GPUs that nodes offer whole, for tasks of several GPUs; such a task then makes one "+
			"request, as the aliquot driver requires; 0: one request for all slices of each GPU, "+
			"as in the published comparison")
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
	lost    loss      // at lossAt, if it was reached
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
	fmt.Printf("%d nodes, %.0f GPUs in %d slices each; GPU capacity in %%: allocated at each demand, "+
		"and lost at %d%% demand by cause; mean of %d orders from seed %d\n\n",
		len(machines), capacity(machines), o.n, lossAt,
		o.seeds, o.seed)
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

// workload prints the row of each policy when its runs have ended.
func (o options) workload(name string, machines []machine, tasks []task, demand pack.Demand) error {
	fmt.Printf("%s, %d classes\n", name, len(demand.Classes()))
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "policy\t")
	for _, m := range marks {
		if m <= o.most {
			fmt.Fprintf(out, "at %d\t", m)
		}
	}
	fmt.Fprint(out, "rounded up\ttoo small\tno CPU or memory\tplacements/s\tnode writes\t\n")
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
						capacity(machines), demand)
				}
			})
		}
		runs.Wait()
		for _, err := range errs {
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		row(out, c.name, results, capacity(machines))
		if err := out.Flush(); err != nil {
			return err
		}
	}
	fmt.Println()
	return nil
}

func row(out *tabwriter.Writer, name string, results []result, capacity float64) {
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
		total.lost.rounded += r.lost.rounded
		total.lost.small += r.lost.small
		total.lost.host += r.lost.host
	}
	for _, lost := range []float64{total.lost.rounded, total.lost.small, total.lost.host} {
		fmt.Fprintf(out, "%.2f\t", 100*lost/capacity/float64(len(results)))
	}
	if total.spent > 0 {
		fmt.Fprintf(out, "%.0f\t%d\t\n", float64(total.tasks)/total.spent.Seconds(), total.writes/len(results))
	} else {
		fmt.Fprint(out, "\t\t\n")
	}
}

// replay places all tasks and reads what is allocated at each mark.
func replay(p placer, tasks []task, capacity float64, demand pack.Demand) (result, error) {
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
			if marks[len(r.percent)] == lossAt {
				r.lost = lossOf(p.free(), demand, capacity, allocated)
			}
			r.percent = append(r.percent, 100*allocated/capacity)
		}
	}
	r.tasks = len(tasks)
	if c, ok := p.(*cluster); ok {
		r.spent, r.writes = c.spent, c.writes
	}
	return r, nil
}
