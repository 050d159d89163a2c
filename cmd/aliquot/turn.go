package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/consultoken"
	"aliquot.example/internal/turn"
)

type turnCommand struct{ ui cli.Ui }

func (turnCommand) Synopsis() string {
	return "Wait for one of a limited number of turns in the cluster"
}

func (turnCommand) Help() string {
	return `Usage: aliquot turn -most=<n> [-key=aliquot/pull] [-lapse=1h]
       aliquot turn -release [-key=aliquot/pull]

  Waits until fewer than <n> turns are held in the cluster, takes one and exits. The
  turn ends with -release, when its node fails, or when it lapses.
  jobs/prepull.nomad.hcl uses turns to limit how many nodes pull images at once.

  The Consul agent is found by the CONSUL_* variables.

Options:

  -most      Largest number of turns held at once. Required without -release.
  -release   Give the turn back. Default false.
  -key       Prefix of the turns in Consul KV. Default aliquot/pull.
  -lapse     Longest time that a turn is held, 10s to 24h. Default 1h.
  -holder    Name of the holder. Default $NOMAD_ALLOC_ID.

Example:

  aliquot turn -most=4 -holder=node7 && docker pull vllm/vllm-openai:v0.28.0; aliquot turn -release -holder=node7
`
}

func (c turnCommand) Run(args []string) int {
	flags := newFlags("turn", c.ui)
	turns := turn.Turns{}
	flags.IntVar(&turns.Max, "most", 0, "")
	release := flags.Bool("release", false, "")
	flags.StringVar(&turns.Prefix, "key", "aliquot/pull", "")
	flags.DurationVar(&turns.Lapse, "lapse", time.Hour, "")
	holder := flags.String("holder", os.Getenv("NOMAD_ALLOC_ID"), "")
	if !flags.parse(args) {
		return 2
	}
	if wrong := wrongTurn(turns, *holder, *release); wrong != "" {
		c.ui.Error("aliquot turn: " + wrong + "; see aliquot turn -help")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if turns.Client, err = consultoken.NewClient(api.DefaultConfig()); err == nil {
		if *release {
			err = turns.Release(ctx, *holder)
		} else {
			err = turns.Take(ctx, *holder)
		}
	}
	if errors.Is(err, turn.ErrUnheld) {
		c.ui.Output(err.Error()) // the turn had lapsed before: not a failure of the release
		return 0
	}
	if err != nil {
		c.ui.Error("aliquot turn: " + flat(err))
		return 1
	}
	return 0
}

func wrongTurn(t turn.Turns, holder string, release bool) string {
	switch {
	case holder == "":
		return "no holder: set -holder, or NOMAD_ALLOC_ID"
	case t.Prefix == "":
		return "-key is empty"
	case release:
		return ""
	case t.Max < 1:
		return fmt.Sprintf("-most=%d: want at least 1", t.Max)
	case t.Lapse < 10*time.Second || t.Lapse > 24*time.Hour:
		return fmt.Sprintf("-lapse=%s: want 10s to 24h", t.Lapse)
	}
	return ""
}
