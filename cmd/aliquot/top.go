package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/term"

	"aliquot/internal/top"
)

type topCommand struct{ ui cli.Ui }

func (topCommand) Synopsis() string { return "Show GPUs, who holds which slices, and services" }

func (topCommand) Help() string {
	return `Usage: aliquot top [-once] [-json] [-interval=2s] [-no-services]

  Shows every GPU of the cluster as a bar of its slices, with the allocation that
  holds each, its use, memory, enforcement and health; and every service behind a
  gateway with its queue and its replicas by hardware class. Refreshes in a terminal,
  cut to its window, until Ctrl-C; prints once elsewhere and where TERM is dumb. A
  slice shown as ? may be held by a job that the token may not see.

  Nomad and Consul are found as their own commands find them (NOMAD_ADDR,
  NOMAD_TOKEN, CONSUL_HTTP_ADDR, …).

Options:

  -once          Print once and exit. Default false.
  -json          Print once, as JSON. Default false.
  -interval      Time between two refreshes, at least 500ms. Default 2s.
  -no-services   Leave Consul and the gateways out. Default false.

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
	if !flags.parse(args) {
		return 2
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
	live := !*once && !*asJSON && terminal != "" && terminal != "dumb" && term.IsTerminal(int(os.Stdout.Fd()))
	leave := func() {}
	if live {
		fmt.Print("\x1b[?1049h") // a screen of its own, so that what was there comes back
		leave = sync.OnceFunc(func() { fmt.Print("\x1b[?1049l") })
	}
	defer leave()
	for shown := false; ; {
		switch err := show(ctx, cluster, *asJSON, live); {
		case err == nil:
			shown = true
		case ctx.Err() != nil:
		case live && shown:
			stale(err) // a server that restarts must not end the view
		default:
			leave()
			c.ui.Error("aliquot top: " + flat(err))
			return 1
		}
		if !live {
			return 0
		}
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(*interval):
		}
	}
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

// show prints one snapshot, in place when live: it goes to the top left corner,
// overwrites line by line and clears what was below, which does not flicker.
func show(ctx context.Context, cluster top.Cluster, asJSON, live bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := cluster.Snapshot(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(s)
	}
	var text bytes.Buffer
	if err := top.Render(&text, s); err != nil {
		return err
	}
	if !live {
		_, err = os.Stdout.Write(text.Bytes())
		return err
	}
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		width, height = 80, 24
	}
	last := top.Fit(s.At.Format(time.TimeOnly)+"  Ctrl-C ends", width, 1)
	screen := strings.ReplaceAll(top.Fit(text.String(), width, height-1)+"\n"+last, "\n", "\x1b[K\n")
	_, err = fmt.Fprintf(os.Stdout, "\x1b[H%s\x1b[K\x1b[J", screen)
	return err
}

// stale says in the last line of a live view why what is above it is not new.
func stale(err error) {
	line := []rune(fmt.Sprintf("%s  asking again: %s", time.Now().Format(time.TimeOnly), flat(err)))
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && len(line) >= width {
		line = line[:max(0, width-1)]
	}
	fmt.Printf("\r%s\x1b[K", string(line))
}
