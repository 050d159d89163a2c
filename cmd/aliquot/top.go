package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/term"

	"aliquot.example/internal/account"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/top"
)

type topCommand struct{ ui cli.Ui }

func (topCommand) Synopsis() string { return "Show GPUs, who holds which slices, and services" }

func (topCommand) Help() string {
	return `Usage: aliquot top [-once] [-json] [-interval=2s] [-no-services] [-fragmentation]

  Shows every GPU of the cluster as a bar of slices, with the allocations that hold
  them, its use, memory, enforcement and health; and every service behind a gateway
  with its queue and its replicas by hardware class. In a terminal the view refreshes
  and fits the window. Elsewhere, or if TERM is dumb, it prints once. A slice shown as
  ? may be held by a job that the token may not read.

  Keys: arrows, PgUp, PgDn, Home and End (or k, j, b, space, g, G) scroll; s switches
  the order between name, use, free slices and health; q or Ctrl-C quits.

  Nomad and Consul are found by the variables of their own commands (NOMAD_ADDR,
  NOMAD_TOKEN, CONSUL_HTTP_ADDR, …).

Options:

  -once          Print once and exit. Default false.
  -json          Print once, as JSON. Default false.
  -interval      Time between two refreshes, at least 500ms. Default 2s.
  -no-services   Leave out Consul and the gateways. Default false.
  -fragmentation Print once, per node and in total, how much GPU capacity is free, how
                 much of it the typical demand cannot use, and which moves of
                 allocations would change that. NOMAD_TOKEN needs read-job in all
                 namespaces: capacity of jobs that it cannot read counts as free.
                 Default false.
  -demand        With -fragmentation: a file with the typical demand, instead of the
                 one in Consul KV.

Example:

  NOMAD_ADDR=http://nomad.example.com:4646 aliquot top -once
`
}

func (c topCommand) Run(args []string) int {
	flags := newFlags("top", c.ui)
	once := flags.Bool("once", false, "")
	asJSON := flags.Bool("json", false, "")
	interval := flags.Duration("interval", 2*time.Second, "")
	noServices := flags.Bool("no-services", false, "")
	fragmentation := flags.Bool("fragmentation", false, "")
	demand := flags.String("demand", "", "")
	if !flags.parse(args) {
		return 2
	}
	if *fragmentation {
		return c.fragmentation(*asJSON, *demand)
	}
	if *interval < 500*time.Millisecond {
		c.ui.Error(fmt.Sprintf("aliquot top: -interval=%s: want at least 500ms; see aliquot top -help", *interval))
		return 2
	}
	cluster, err := connect(!*noServices)
	if err != nil {
		c.ui.Error("aliquot top: " + flat(err))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	terminal := os.Getenv("TERM")
	if !*once && !*asJSON && terminal != "" && terminal != "dumb" && term.IsTerminal(int(os.Stdout.Fd())) {
		err = watch(ctx, cluster, *interval)
	} else {
		err = show(ctx, cluster, *asJSON)
	}
	if err != nil && ctx.Err() == nil {
		c.ui.Error("aliquot top: " + flat(err))
		return 1
	}
	return 0
}

// fragmentation prints the free capacity and how much of it cannot be used.
func (c topCommand) fragmentation(asJSON bool, file string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cluster, err := connect(false)
	var f account.Fragmentation
	if err == nil {
		var demand pack.Demand
		if demand, _, err = typical(ctx, file); err == nil {
			f, err = account.Report(ctx, cluster.Nomad, demand, account.MoveLimits{Max: maxMoves})
		}
	}
	if err != nil {
		c.ui.Error("aliquot top: " + flat(err))
		return 1
	}
	if asJSON {
		out, _ := json.MarshalIndent(fragmentationDocument(f), "", "  ")
		c.ui.Output(string(out))
	} else {
		c.ui.Output(fragmentationTable(f))
	}
	return 0
}

func connect(services bool) (top.Cluster, error) {
	var cluster top.Cluster
	var err error
	if cluster.Nomad, err = nomad.NewClient(nomad.DefaultConfig()); err != nil {
		return cluster, err
	}
	if services {
		client, err := consul.NewClient(consul.DefaultConfig())
		if err != nil {
			return cluster, err
		}
		cluster.Services = top.Gateways(client)
	}
	return cluster, nil
}

// snapshot reads the cluster once.
func snapshot(ctx context.Context, cluster top.Cluster) (top.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return cluster.Snapshot(ctx)
}

// show prints one snapshot.
func show(ctx context.Context, cluster top.Cluster, asJSON bool) error {
	s, err := snapshot(ctx, cluster)
	if err != nil {
		return err
	}
	if asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(s)
	}
	return top.Render(os.Stdout, s)
}
