package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/account"
	"aliquot.example/internal/pack"
)

type jobDefragCommand struct{ ui cli.Ui }

func (jobDefragCommand) Synopsis() string { return "Move allocations so that free capacity is usable" }

func (jobDefragCommand) Help() string {
	return `Usage: aliquot job defrag [-dry-run] [-most=10] [-at-once=1] [-timeout=5m]

  Stops allocations whose capacity is of more use elsewhere; Nomad starts them again
  by their jobs' policy. Only jobs of type service are touched that allow it with
  meta { aliquot_defrag = "true" }. While one moves, all others of its group stay,
  at least one, or as many as the meta aliquot_defrag_min_healthy says. The node
  that an allocation leaves is ineligible until its successor is healthy: until Nomad
  has found it so by the job's update or migrate block. To run is not enough.

  aliquot top -fragmentation shows what there is to gain. Each move is planned by
  Nomad, so that it heeds the constraints of the job; what has no place is not
  moved. NOMAD_TOKEN needs node:write, and read-job, alloc-lifecycle, submit-job in
  the namespaces of the jobs; with -dry-run node:read, read-job and submit-job.

Options:

  -dry-run   Print the moves and end. Default false.
  -most      Most moves. Default 10.
  -at-once   Moves side by side, each of another group. Default 1.
  -timeout   How long a successor may take to be healthy. Default 5m.
  -demand    A file with the typical demand, instead of that in Consul KV.

Example:

  aliquot job defrag -dry-run
`
}

// defrag is one run of the command.
type defrag struct {
	ui      cli.Ui
	nomad   *nomad.Client
	demand  pack.Demand
	timeout time.Duration
	// settled holds the IDs of the allocations from before the run. Any other must be
	// found healthy by Nomad to count.
	settled map[string]bool
}

func (c jobDefragCommand) Run(args []string) int {
	flags := newFlags("job defrag", c.ui)
	dry := flags.Bool("dry-run", false, "")
	most := flags.Int("most", mostMoves, "")
	atOnce := flags.Int("at-once", 1, "")
	timeout := flags.Duration("timeout", 5*time.Minute, "")
	file := flags.String("demand", "", "")
	if !flags.parse(args) {
		return 2
	}
	if *most < 1 || *atOnce < 1 || *timeout <= 0 {
		c.ui.Error("aliquot job defrag: -most, -at-once and -timeout must be above 0; see aliquot job defrag -help")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := defrag{ui: c.ui, timeout: *timeout}
	var err error
	if d.nomad, err = nomad.NewClient(nomad.DefaultConfig()); err == nil {
		d.demand, _, err = typical(ctx, *file)
	}
	if err == nil && *dry {
		var f account.Fragmentation
		if f, err = account.Report(ctx, d.nomad, d.demand, account.Wish{Most: *most, Willing: true,
			Takes: d.takes}); err == nil {
			c.ui.Output(movesTable(f.Moves))
		}
	} else if err == nil {
		err = d.run(ctx, *most, *atOnce)
	}
	if err != nil {
		c.ui.Error("aliquot job defrag: " + flat(err))
		return 1
	}
	return 0
}

// run moves in rounds: what is best is looked for again after each, because Nomad
// decides where the successors go.
func (d defrag) run(ctx context.Context, most, atOnce int) error {
	tried := map[string]bool{} // allocations, so that none is moved to and fro
	for done := 0; done < most; {
		f, err := account.Report(ctx, d.nomad, d.demand, account.Wish{Most: most + len(tried), Willing: true,
			Takes: d.takes})
		if err != nil {
			return err
		}
		if d.settled == nil {
			d.settled = allocations(f.Nodes)
		}
		round := choose(f.Moves, tried, min(atOnce, most-done))
		if len(round) == 0 {
			d.ui.Output(fmt.Sprintf("%d allocations moved; no other move is worth it and allowed", done))
			return nil
		}
		errs, moved := make([]error, len(round)), make([]bool, len(round))
		var moves sync.WaitGroup
		for i, m := range round {
			tried[m.Allocation.ID], tried[m.Allocation.Name] = true, true
			moves.Go(func() { moved[i], errs[i] = d.move(ctx, m) })
		}
		moves.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, yes := range moved {
			if yes {
				done++
			}
		}
	}
	d.ui.Output(fmt.Sprintf("%d allocations moved", most))
	return nil
}

// allocations returns the IDs of all allocations on the nodes.
func allocations(nodes []account.Node) map[string]bool {
	out := map[string]bool{}
	for _, n := range nodes {
		for _, h := range n.Held {
			out[h.Allocation.ID] = true
		}
	}
	return out
}

// choose takes the best moves that do not touch each other's group or node.
func choose(moves []account.Move, tried map[string]bool, most int) []account.Move {
	var out []account.Move
	busy := map[string]bool{}
	for _, m := range moves {
		a := m.Allocation
		group := strings.Join([]string{a.Namespace, a.JobID, a.TaskGroup}, "/")
		if len(out) == most || tried[a.ID] || tried[a.Name] || m.Refused != "" || busy[group] || busy[m.From.ID] ||
			busy[m.To.ID] {
			continue
		}
		busy[group], busy[m.From.ID], busy[m.To.ID] = true, true, true
		out = append(out, m)
	}
	return out
}

// move stops one allocation and waits until its group is as healthy as before. It
// reports false where the allocation has to stay, and says why.
func (d defrag) move(ctx context.Context, m account.Move) (moved bool, err error) {
	a := m.Allocation
	before, err := d.healthy(ctx, a)
	if err != nil {
		return false, err
	}
	job, why, err := d.allowed(ctx, a, len(before))
	if err != nil || why != "" {
		return false, d.stays(a, why, err)
	}
	if m.From.Open { // else it takes none anyhow, and stays as somebody set it
		if _, err := d.nomad.Nodes().ToggleEligibility(m.From.ID, false, nil); err != nil {
			return false, fmt.Errorf("node %s cannot be made ineligible: %w", m.From.Name, err)
		}
		defer func() {
			if _, failed := d.nomad.Nodes().ToggleEligibility(m.From.ID, true, nil); failed != nil && err == nil {
				err = fmt.Errorf("node %s is still ineligible: %w; run  nomad node eligibility -enable %.8s",
					m.From.Name, failed, m.From.ID)
			}
		}()
	}
	// With the node closed, Nomad itself says whether constraints, vendor, pool, ports and
	// volumes leave the successor a place.
	if why, err := d.place(ctx, job, a); err != nil || why != "" {
		return false, d.stays(a, why, err)
	}
	if _, err := d.nomad.Allocations().Stop(&nomad.Allocation{ID: a.ID},
		(&nomad.QueryOptions{Namespace: a.Namespace}).WithContext(ctx)); err != nil {
		return false, fmt.Errorf("allocation %.8s of %s cannot be stopped: %w", a.ID, a.JobID, err)
	}
	err = d.await(ctx, m, before)
	return err == nil, err
}

// stays says why an allocation is not moved, unless that could not be found out.
func (d defrag) stays(a *nomad.Allocation, why string, err error) error {
	if err == nil {
		d.ui.Warn(fmt.Sprintf("%s/%s: %.8s stays: %s", a.JobID, a.TaskGroup, a.ID, why))
	}
	return err
}

// await waits for as many healthy ones as before, the stopped one aside.
func (d defrag) await(ctx context.Context, m account.Move, before map[string]string) error {
	waiting, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	for {
		now, err := d.healthy(waiting, m.Allocation)
		if err == nil && now[m.Allocation.ID] == "" && len(now) >= len(before) {
			for id, node := range now {
				if before[id] == "" {
					d.ui.Output(fmt.Sprintf("%s/%s: %.8s left %s, %.8s runs on %s", m.Allocation.JobID,
						m.Allocation.TaskGroup, m.Allocation.ID, m.From.Name, id, node))
				}
			}
			return nil
		}
		select {
		case <-look.C:
		case <-waiting.Done():
			why := fmt.Sprintf("its successor is not healthy within %s", d.timeout)
			if ctx.Err() != nil {
				why = "the command was interrupted before its successor was healthy"
			}
			return fmt.Errorf("allocation %.8s of %s was stopped, and %s; see nomad job status %s", m.Allocation.ID,
				m.Allocation.JobID, why, m.Allocation.JobID)
		}
	}
}

// allowed reads the job once more, right before the move, and says why the move must
// not be made, "" where it may.
func (d defrag) allowed(ctx context.Context, a *nomad.Allocation, healthy int) (*nomad.Job, string, error) {
	job, _, err := d.nomad.Jobs().Info(a.JobID, (&nomad.QueryOptions{Namespace: a.Namespace}).WithContext(ctx))
	if err != nil {
		return nil, "", fmt.Errorf("job %s cannot be read: %w", a.JobID, err)
	}
	tg := job.LookupTaskGroup(a.TaskGroup)
	if tg == nil {
		return nil, "its job has no such group any more", nil
	}
	return job, account.Refusal(job, tg, healthy), nil
}

// healthy lists the healthy allocations of the group of one, with their nodes' names.
func (d defrag) healthy(ctx context.Context, of *nomad.Allocation) (map[string]string, error) {
	list, _, err := d.nomad.Jobs().Allocations(of.JobID, false,
		(&nomad.QueryOptions{Namespace: of.Namespace}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("the allocations of job %s cannot be read: %w", of.JobID, err)
	}
	out := map[string]string{}
	for _, s := range list {
		a := &nomad.Allocation{ClientStatus: s.ClientStatus, DesiredStatus: s.DesiredStatus,
			DeploymentStatus: s.DeploymentStatus}
		if s.TaskGroup == of.TaskGroup && account.Healthy(a, d.settled[s.ID]) {
			out[s.ID] = s.NodeName
		}
	}
	return out, nil
}
