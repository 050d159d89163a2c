package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
	"aliquot.example/internal/pack"
)

type demandCommand struct{ ui cli.Ui }

func (demandCommand) Synopsis() string { return "Show or learn what GPU tasks usually request" }

func (demandCommand) Help() string {
	return `Usage: aliquot demand [-learn] [-interval=<duration>]

  Shows the classes of the typical demand. Packing policies order nodes by it.
  With -learn it first updates the demand in Consul KV (aliquot/packing/demand): it
  moves it by a fifth towards the requests of the jobs that are in Nomad. Run this
  regularly, for example every hour from a periodic job. It needs list-jobs and
  read-job in all namespaces, and write access to the key.

Options:

  -learn      Update the demand before showing it. Default false.
  -interval   Repeat with -learn at this interval until Ctrl-C, at least 1m. Default:
              run once.

Example:

  aliquot demand -learn -interval=1h
`
}

func (c demandCommand) Run(args []string) int {
	flags := newFlags("demand", c.ui)
	learn := flags.Bool("learn", false, "")
	interval := flags.Duration("interval", 0, "")
	if !flags.parse(args) {
		return 2
	}
	if *interval != 0 && (*interval < time.Minute || !*learn) {
		c.ui.Error(fmt.Sprintf("aliquot demand: -interval=%s: want -learn and at least 1m; see aliquot demand -help",
			*interval))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for {
		d, err := c.look(ctx, *learn)
		switch {
		case err == nil:
			c.ui.Output(classTable(d))
		case ctx.Err() != nil:
			return 0
		default:
			c.ui.Error("aliquot demand: " + flat(err))
			if *interval == 0 {
				return 1
			}
		}
		if *interval == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(*interval):
		}
	}
}

func (demandCommand) look(ctx context.Context, learn bool) (pack.Demand, error) {
	if !learn {
		d, _, err := typical(ctx, "")
		return d, err
	}
	ofNomad, err := nomad.NewClient(nomad.DefaultConfig())
	if err != nil {
		return nil, err
	}
	ofConsul, err := consul.NewClient(consul.DefaultConfig())
	if err != nil {
		return nil, err
	}
	return account.Learn(ctx, ofNomad, ofConsul)
}

// classTable lists the classes of a demand.
func classTable(d pack.Demand) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLASS\tREQUESTS\tINSTANCES\tCPU MHZ\tMEMORY MIB\tATTRIBUTE")
	for _, c := range d.Classes() {
		t := c.Typical
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", c.Name, t.Requests, t.Instances, t.CPU, t.MemoryMiB, c.Attribute())
	}
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}
