// Command gateways compares several gateways that share one queue with a single gateway, as
// processes of the shipped program with a real Consul, on one machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"aliquot.example/e2e/gateways"
)

func main() {
	var o options
	flag.StringVar(&o.gateway, "aliquot", "", "path of the aliquot program; built if empty")
	flag.IntVar(&o.seeds, "seeds", 2, "sequences of requests for each load")
	flag.DurationVar(&o.length, "length", 20*time.Second, "length of each sequence")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of the measurement of the added time")
	only := flag.String("only", "", "race, added, decisions or cells; all if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench/gateways:", err)
		os.Exit(1)
	}
}

// options are the values of the flags.
type options struct {
	gateway, consul, dir string
	seeds                int
	length               time.Duration
	rounds               int
}

var loads = []float64{0.5, 0.8, 0.9, 0.95}

func (o options) run(ctx context.Context, only string) (err error) {
	if only == "cells" {
		cells()
		return nil
	}
	if o.dir, err = os.MkdirTemp("", "aliquot-bench-gateways-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	if o.gateway == "" {
		o.gateway = filepath.Join(o.dir, "aliquot")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", o.gateway,
			"aliquot.example/cmd/aliquot").CombinedOutput(); err != nil {
			return fmt.Errorf("building aliquot: %w: %s", err, out)
		}
	}
	out, err := exec.CommandContext(ctx, "scripts/tools", "--path", "consul").Output()
	if err != nil {
		return fmt.Errorf("consul: run make tools first: %w", err)
	}
	o.consul = strings.TrimSpace(string(out))
	for _, p := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"race", o.race},
		{"added", func(ctx context.Context) error { return o.settled(ctx, o.added) }},
		{"decisions", func(ctx context.Context) error { return o.settled(ctx, decisions) }},
	} {
		if only == "" || only == p.name {
			if err := p.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	if only == "" {
		cells()
	}
	return nil
}

// open starts n gateways in front of the replicas.
func (o options) open(ctx context.Context, n int, replicas []*gateways.Replica) (*gateways.Fleet, error) {
	dir, err := os.MkdirTemp(o.dir, "fleet-")
	if err != nil {
		return nil, err
	}
	return gateways.Open(ctx, gateways.Options{
		Program: o.gateway, Consul: o.consul, Dir: dir, Gateways: n, Replicas: replicas, TLS: `tls = "off"`,
		Service: "queue {\n  max      = 100000\n  max_wait = \"5m\"\n}",
	})
}
