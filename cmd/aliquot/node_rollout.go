package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/consultoken"
	"aliquot.example/internal/driver"
	"aliquot.example/node"
)

type nodeRolloutCommand struct{ ui cli.Ui }

func (nodeRolloutCommand) Synopsis() string { return "Set which GPU drivers nodes should have" }

func (nodeRolloutCommand) Help() string {
	return `Usage: aliquot node rollout [-key=aliquot/node] <file>
       aliquot node rollout -pause | -resume | -free=<node> | -reset-slots

  Writes the wanted drivers from a JSON file into Consul KV. docs/nodes.md explains the
  file. The node agents follow it. This command only writes: watch the rollout with
  aliquot node status.

Options:

  -pause    Start no other node. Nodes that have started continue. Default false.
  -resume   End the pause. Default false.
  -free     Free the slot of a node, by name or ID, that failed or will never come back.
            A failed node then tries again. Do not free the slot of a node during its
            change: before its installation it cancels the change, later it takes a
            slot again.
  -reset-slots
            Replace the document of slots if it is damaged. Nodes that are being changed
            behave as with -free. Default false.
  -key      Prefix of the documents in Consul KV. Default aliquot/node.

Example:

  aliquot node rollout drivers.json
`
}

// rollout holds the parsed flags of the command.
type rollout struct {
	pause, resume, reset bool
	free, file           string
}

func (c nodeRolloutCommand) Run(args []string) int {
	var r rollout
	flags := newFlags("node rollout", c.ui)
	flags.BoolVar(&r.pause, "pause", false, "")
	flags.BoolVar(&r.resume, "resume", false, "")
	flags.BoolVar(&r.reset, "reset-slots", false, "")
	flags.StringVar(&r.free, "free", "", "")
	key := flags.String("key", driver.RolloutPrefix, "")
	err := flags.Parse(args)
	if err == nil {
		err = r.files(flags.Args())
	}
	if err != nil {
		c.ui.Error(fmt.Sprintf("aliquot node rollout: %v; see aliquot node rollout -help", err))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	output, err := r.run(ctx, *key)
	if err != nil {
		c.ui.Error("aliquot node rollout: " + flat(err))
		return 1
	}
	c.ui.Output(output)
	return 0
}

// files reads the arguments, and checks that exactly one action is requested.
func (r *rollout) files(args []string) error {
	asked := 0
	for _, is := range []bool{r.pause, r.resume, r.reset, r.free != "", len(args) > 0} {
		if is {
			asked++
		}
	}
	if asked != 1 || len(args) > 1 {
		return errors.New("want one of: a file, -pause, -resume, -free=<node>, -reset-slots")
	}
	if len(args) == 1 {
		r.file = args[0]
	}
	return nil
}

func (r rollout) run(ctx context.Context, prefix string) (output string, err error) {
	var wanted driver.Wanted
	if r.file != "" {
		text, err := os.ReadFile(r.file)
		if err != nil {
			return "", err
		}
		if wanted, err = driver.ParseWanted(text); err != nil {
			return "", fmt.Errorf("%s: %w", r.file, err)
		}
	}
	docs, err := documents(prefix)
	if err != nil {
		return "", err
	}
	switch {
	case r.free != "":
		phase, _ := docs.InProgress(ctx, r.free) // only for a warning
		return freed(r.free, phase), docs.Free(ctx, r.free)
	case r.reset:
		return "all slots are free; nodes that are being changed take theirs again", docs.ResetSlots(ctx)
	case r.file != "":
		return fmt.Sprintf("set the wanted drivers of %d classes, %d nodes at once", len(wanted.Classes), wanted.Max),
			// Ignore the error: the file replaces a damaged document too.
			docs.SetWanted(ctx, func(driver.Wanted, error) (driver.Wanted, error) { return wanted, nil })
	}
	output = "resumed: nodes start when they get a slot"
	if r.pause {
		output = "paused: no other node starts"
	}
	return output,
		docs.SetWanted(ctx, func(w driver.Wanted, damaged error) (driver.Wanted, error) {
			w.Paused = r.pause
			if damaged != nil {
				damaged = fmt.Errorf("%w; nothing was changed, and no node starts: "+
					"write the wanted drivers again from a file", damaged)
			}
			return w, damaged
		})
}

// freed returns the message for a freed slot. phase is the node's, if it was being changed.
func freed(node string, phase driver.Phase) string {
	output := "the slot of node " + node + " is free"
	if phase != "" {
		output += fmt.Sprintf("; warning: the node last reported phase %s, so its change is in progress: before "+
			"its installation it cancels the change, later it takes a slot again, even beyond max", phase)
	}
	return output
}

func documents(prefix string) (node.Documents, error) {
	client, err := consultoken.NewClient(consul.DefaultConfig())
	if err != nil {
		return node.Documents{}, err
	}
	return node.Documents{KV: client.KV(), Prefix: prefix}, nil
}

type nodeStatusCommand struct{ ui cli.Ui }

func (nodeStatusCommand) Synopsis() string { return "Show the progress of each node's GPU driver" }

func (nodeStatusCommand) Help() string {
	return `Usage: aliquot node status [-json] [-key=aliquot/node]

  Shows the state of the rollout, the slots in use, and for each node with an agent its
  phase, its loaded and wanted driver, and what it waits for.

  Exits with 1 if a node failed, with 2 if Consul cannot be reached.

Options:

  -json   Print everything as JSON. Default false.
  -key    Prefix of the documents in Consul KV. Default aliquot/node.

Example:

  aliquot node status
`
}

func (c nodeStatusCommand) Run(args []string) int {
	flags := newFlags("node status", c.ui)
	asJSON := flags.Bool("json", false, "")
	key := flags.String("key", driver.RolloutPrefix, "")
	if !flags.parse(args) {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	docs, err := documents(*key)
	var s node.Status
	if err == nil {
		s, err = docs.Status(ctx)
	}
	if err != nil {
		c.ui.Error("aliquot node status: " + flat(err))
		return 2
	}
	if *asJSON {
		text, _ := json.MarshalIndent(s, "", "  ")
		c.ui.Output(string(text))
	} else {
		c.ui.Output(statusTable(s, time.Now()))
	}
	if s.Slots.Failed() {
		return 1
	}
	return 0
}

// statusTable formats a rollout for a terminal.
func statusTable(s node.Status, now time.Time) string {
	var b strings.Builder
	state := s.Slots.State(s.Wanted)
	fmt.Fprintf(&b, "Rollout %s; %d of %d slots are taken\n\n", state, len(s.Slots.Holders), s.Wanted.Max)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "Node\tClass\tPhase\tFor\tLoaded\tWanted\tWhy")
	for _, r := range s.Nodes {
		long := "-"
		if !r.Since.IsZero() {
			long = now.Sub(r.Since).Round(time.Second).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Node, dash(r.Class), r.Phase, long,
			dash(r.Loaded()), dash(r.Wanted), r.Reason())
	}
	table.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
