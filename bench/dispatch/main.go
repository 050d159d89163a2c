// Command dispatch compares the gateway with other proxies in front of replicas of unequal speed.
// It needs haproxy and nginx on PATH (Debian: apt-get install haproxy nginx-light). It builds Caddy
// from tools/ if missing. It includes Traefik only if ALIQUOT_TRAEFIK names a program, because
// building it takes half an hour or more. It prints a line for each of the two that it leaves out.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.gateway, "aliquot", "", "path of the aliquot program; built if empty")
	flag.IntVar(&o.seeds, "seeds", 3, "sequences of calls for each load")
	flag.DurationVar(&o.length, "length", 40*time.Second, "length of each sequence")
	flag.IntVar(&o.rounds, "rounds", 5, "measured rounds of the overhead measurement")
	flag.IntVar(&o.busy, "busy", 0, "busy loops to run beside the measurement")
	flag.StringVar(&o.trace, "trace", "../shared/data/traces/azure2023_code.csv", "trace for -replay")
	flag.Float64Var(&o.speed, "speed", 60, "factor by which the replay of the trace is faster than real time")
	only := flag.String("only", "", "race, overhead, replay or sim; all except sim if empty")
	serve := flag.String("serve", "",
		"internal: run as a busy loop, or as the plain proxy or the backend of the overhead measurement")
	flag.Parse()
	var err error
	if *serve != "" {
		err = serveRole(*serve, flag.Args())
	} else {
		err = o.run(context.Background(), *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/dispatch:", err)
		os.Exit(1)
	}
}

// options are the values of the flags.
type options struct {
	gateway string
	seeds   int
	length  time.Duration
	rounds  int
	busy    int
	trace   string
	speed   float64
}

var loads = []float64{0.5, 0.7, 0.8, 0.9, 0.95}

func (o options) run(ctx context.Context, only string) error {
	if only == "sim" {
		simTable(loads, 6, 40000)
		return nil
	}
	if o.gateway == "" {
		dir, err := os.MkdirTemp("", "aliquot-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.gateway = filepath.Join(dir, "aliquot")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", o.gateway,
			"aliquot.example/cmd/aliquot").CombinedOutput(); err != nil {
			return fmt.Errorf("building aliquot: %w: %s", err, out)
		}
	}
	end, err := occupy(o.busy)
	if err != nil {
		return err
	}
	defer end()
	parts := []struct {
		name string
		run  func() error
	}{
		{"race", func() error { return race(ctx, o) }},
		{"overhead", func() error { return overhead(ctx, o.gateway, o.rounds) }},
		{"replay", func() error { return replay(ctx, o.gateway, o.trace, o.speed) }},
	}
	for _, p := range parts {
		if only == "" || only == p.name {
			if err := p.run(); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}
