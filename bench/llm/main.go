// Command llm replays recorded traffic of language models against fleets of unequal
// replicas that batch continuously, in simulated time, and prints how much of it each
// way of dispatching serves within the objective. No real engine runs; see
// e2e/modelserver/engine for what is computed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/e2e/modelserver/engine"
)

// options are what the flags say.
type options struct {
	traces    string
	traceList []string
	fleets    []string
	loads     []float64
	policies  []string
	seeds     int
	requests  int
	poisson   bool
	onWire    bool
	seqs      int
	speedup   float64
	how       conditions
}

func main() {
	var o options
	flag.StringVar(&o.traces, "traces", "../shared/data/traces", "folder of the traces")
	traceList := flag.String("trace", "conversation",
		"traces, separated by commas: conversation, azure-conv, azure-code")
	fleetList := flag.String("fleet", "mixed,slices,equal,big64",
		"fleets, separated by commas: mixed, slices, equal, big64, one, four")
	loadList := flag.String("load", "", "loads, separated by commas; if empty, the loads at which the fleet is judged")
	policyList := flag.String("policy", "",
		"policies, separated by commas; all if empty: "+strings.Join(policyNames(), ", "))
	flag.IntVar(&o.seeds, "seeds", 3, "number of starting points in the trace")
	flag.IntVar(&o.requests, "requests", 0, "requests of a replay; 0 means 6000, and 10,000 in front of 64 replicas")
	flag.BoolVar(&o.poisson, "poisson", false, "draw arrivals at random instead of using the recorded ones")
	flag.BoolVar(&o.onWire, "wire", false,
		"replay the requests in real time through the gateway, HAProxy and nginx (which must be on PATH), "+
			"and compare with their simulations")
	flag.Float64Var(&o.speedup, "speedup", 1,
		"with -wire, factor by which the replay is faster than real time; 1 keeps the gateway's own times in "+
			"proportion")
	flag.IntVar(&o.how.gateways, "gateways", 1,
		"gateways that share the fleet without a connection to each other")
	flag.IntVar(&o.seqs, "seqs", 0,
		"largest number of sequences in one step of each replica, which the gateway knows; "+
			"0 means vLLM's default of 256")
	flag.Float64Var(&o.how.whole, "whole", 0, "fraction of the requests whose answers are not streamed")
	flag.BoolVar(&o.how.lengths, "lengths", false,
		"tell the gateway the length of each answer: the most that a prediction could gain")
	priors := flag.String("prior", "",
		"factors by which the gateway's weights are wrong, such as l4=3,h100=0.3; these classes are then in no table")
	llamaFolder := flag.String("llama", "",
		"instead of everything else: learn the speed of llama.cpp on the CPU with the scripts in this folder "+
			"(bench/llm/llama, after npm install --no-save --omit=optional --ignore-scripts there)")
	quick := flag.Bool("quick", false, "one seed, 1500 requests")
	flag.Parse()
	o.traceList = strings.Split(*traceList, ",")
	o.fleets = strings.Split(*fleetList, ",")
	if *policyList != "" {
		o.policies = strings.Split(*policyList, ",")
	}
	if *quick {
		o.seeds, o.requests = 1, 1500
	}
	err := o.parseLoads(*loadList)
	if err == nil {
		err = o.parsePriors(*priors)
	}
	switch {
	case err != nil:
	case *llamaFolder != "":
		err = llama(os.Stdout, *llamaFolder, llamaLength)
	default:
		err = o.run(os.Stdout)
	}
	if *llamaFolder == "" && errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "bench/llm: skipped: %v (-traces names the folder of the recordings)\n", err)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/llm:", err)
		os.Exit(1)
	}
}

func (o *options) parseLoads(list string) error {
	if list == "" {
		return nil
	}
	for _, text := range strings.Split(list, ",") {
		load, err := strconv.ParseFloat(text, 64)
		if err != nil || !(load > 0 && load <= 10) {
			return fmt.Errorf("-load: %q: want numbers above 0", text)
		}
		o.loads = append(o.loads, load)
	}
	return nil
}

func (o *options) parsePriors(list string) error {
	o.how.priors = map[string]float64{}
	if list == "" {
		return nil
	}
	for _, one := range strings.Split(list, ",") {
		class, text, _ := strings.Cut(one, "=")
		factor, err := strconv.ParseFloat(text, 64)
		if _, ok := engine.Class(class); !ok || err != nil || !(factor > 0) {
			return fmt.Errorf("-prior: %q: want a class and a number above 0, such as l4=3", one)
		}
		o.how.priors[class] = factor
	}
	return nil
}

// judged are the loads at which a fleet is judged.
func judged(fleet string) []float64 {
	switch fleet {
	case "mixed":
		return []float64{0.7, 0.9, 1.05}
	case "big64":
		return []float64{0.85}
	}
	return []float64{0.9}
}

func (o *options) run(w io.Writer) error {
	contestants, err := choose(o.policies)
	if err != nil && !o.onWire {
		return err
	}
	for _, trace := range o.traceList {
		all, err := readTrace(o.traces, trace)
		if err != nil {
			return err
		}
		for _, name := range o.fleets {
			f, err := fleetOf(name)
			if err != nil {
				return err
			}
			loads := o.loads
			if loads == nil {
				loads = judged(name)
			}
			full := capacity(f, all)
			f.seqs = o.seqs
			for _, load := range loads {
				if err := o.meet(w, trace, all, f, load, full, contestants); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// meet runs the contestants at one load and prints their table.
func (o *options) meet(w io.Writer, trace string, all []traced, f fleet, load, full float64,
	contestants []contestant) error {
	n := o.requests
	if n == 0 {
		n = 6000
		if f.size() > 32 {
			n = 10_000
		}
	}
	how, arrivals := "simulated", "recorded"
	if o.onWire {
		how = fmt.Sprintf("on the wire at %g times its pace", o.speedup)
	}
	if o.poisson {
		arrivals = "Poisson"
	}
	fmt.Fprintf(w, "\n%s (%s arrivals), %s at %.2f of %.2f requests/s, %d requests, %d seeds, %s\n", trace, arrivals,
		f.name, load, full, min(n, len(all)), o.seeds, how)
	race := race{fleet: f, trace: all, rate: load * full, requests: n, seeds: o.seeds, poisson: o.poisson, how: o.how}
	if o.onWire {
		return o.wire(w, race, o.chosen())
	}
	out := race.run(contestants)
	table(w, contestants, out)
	if !slices.ContainsFunc(all, func(t traced) bool { return len(t.prefix) > 0 }) {
		race.bounds(w, full)
	}
	if o.requests == 0 { // shorter replays end before the queues of the peers have grown
		verdict(w, contestants, out, trace, f.name, load)
	}
	return nil
}

func choose(names []string) ([]contestant, error) {
	if names == nil {
		return contestants, nil
	}
	var out []contestant
	for _, name := range names {
		i := slices.IndexFunc(contestants, func(c contestant) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-policy: unknown policy %q: want %s", name, strings.Join(policyNames(), ", "))
		}
		out = append(out, contestants[i])
	}
	return out, nil
}
