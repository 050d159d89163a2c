package main

import (
	"os"
	"strings"
	"time"

	"github.com/hashicorp/cli"

	"aliquot.example/simulate"
	"aliquot.example/simulate/replay"
)

type simulateScaleCommand struct{ ui cli.Ui }

func (simulateScaleCommand) Synopsis() string {
	return "Replay a trace of requests against a scaling policy"
}

func (simulateScaleCommand) Help() string {
	return `Usage: aliquot simulate scale -trace <file> -policy <file or settings> [options]

  Replays recorded requests in simulated time. It prints how long they would have
  waited, how many replicas would have run and what these would have cost.

  A trace is CSV with the header arrival_s,input_tokens,output_tokens. A policy
  is a job file with scaling blocks for aliquot-strategy, a file with one such
  strategy block or its settings alone, or settings such as
  "slots=4,utilization=0.8"; see docs/scaling.md.

Options:

  -trace            File with the requests, - for standard input. Required.
  -policy           The policy. Required.
  -slots            Requests that a replica serves at once, instead of the policy's
                    value.
  -classes          Hardware classes instead of the policy's, such as
                    "h100 slots=8 cost=3.5 max=4, l4 slots=2 cost=1 max=16".
  -speed            Speed of each class relative to the service times, such as
                    "h100=1,l4=0.3". Default: the speed in -classes or the policy,
                    otherwise 1.
  -load             Plan with these speeds, as a policy with a query for load does
                    once the gateways have measured them. Default: as the query in
                    the policy's file says.
  -objective        The objective, such as "ttft=2s tpot=100ms quantile=0.99",
                    instead of the policy's. Replicas then batch as the engines of
                    language models do, and counts follow the objective.
  -curve            With an objective: a file with the engine's curve for each class,
                    as aliquot bench -json writes it, such as
                    "h100=h100.json,l4=l4.json". The replay knows all curves from
                    its first second; a real plan leaves a class out until 8 of
                    its requests have been measured.
  -frontier         With an objective: replay with looser and tighter objectives too,
                    and print and plot the cost of each. Default false.
  -coldstart        Time from the decision to start a replica until it serves.
                    Default: the policy's.
  -min              Least count of each class. Default 0.
  -max              Largest count of each class. Default: the max of the class.
  -initial          Replicas of the first class at the start. Default: -min.
  -interval         Evaluation interval. Default 1s.
  -query-window     Length of the demand that one evaluation sees. Default 15m.
  -deployments      Treat every change of counts as a Nomad deployment, for which
                    further changes wait. Default false.
  -per-input-token  Service time per input token. Default 100us.
  -per-output-token Service time per output token. Default 20ms.
  -every            Time per line of the timeline, 0 for none. Default 5m.
  -plot             File for a plot, .svg or .png. Default none.

Example:

  aliquot simulate scale -trace requests.csv -policy slots=4,coldstart=90s -max 24
`
}

func (c simulateScaleCommand) Run(args []string) int {
	o := replay.Options{Stdin: os.Stdin}
	flags := newFlags("simulate scale", c.ui)
	for name, to := range map[string]*string{
		"trace": &o.Trace, "policy": &o.Policy, "slots": &o.Slots, "classes": &o.Classes, "speed": &o.Speed,
		"curve": &o.Curves, "objective": &o.Objective, "plot": &o.Plot,
	} {
		flags.StringVar(to, name, "", "")
	}
	flags.BoolVar(&o.Load, "load", false, "")
	flags.BoolVar(&o.Frontier, "frontier", false, "")
	flags.BoolVar(&o.Deployments, "deployments", false, "")
	flags.IntVar(&o.Min, "min", 0, "")
	flags.IntVar(&o.Max, "max", 0, "")
	flags.IntVar(&o.Initial, "initial", -1, "")
	flags.DurationVar(&o.ColdStart, "coldstart", 0, "")
	flags.DurationVar(&o.Interval, "interval", time.Second, "")
	flags.DurationVar(&o.Window, "query-window", 15*time.Minute, "")
	flags.DurationVar(&o.PerInput, "per-input-token", simulate.DefaultServiceModel().PerInputToken, "")
	flags.DurationVar(&o.PerOutput, "per-output-token", simulate.DefaultServiceModel().PerOutputToken, "")
	flags.DurationVar(&o.Every, "every", 5*time.Minute, "")
	if !flags.parse(args) {
		return 2
	}
	r, err := replay.New(o)
	if err != nil {
		c.ui.Error("aliquot simulate scale: " + flat(err) + "; see aliquot simulate scale -help")
		return 2
	}
	var out strings.Builder
	if err := r.Run(&out); err != nil {
		c.ui.Error("aliquot simulate scale: " + flat(err))
		return 1
	}
	c.ui.Output(strings.TrimSuffix(out.String(), "\n"))
	return 0
}
