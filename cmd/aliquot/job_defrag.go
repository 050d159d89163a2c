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

func (jobDefragCommand) Synopsis() string {
	return "Move allocations so that free capacity becomes usable"
}

func (jobDefragCommand) Help() string {
	return `Usage: aliquot job defrag [-dry-run] [-most=10] [-at-once=1] [-timeout=5m]

  Stops allocations that leave more usable capacity if they run elsewhere. Nomad starts
  them again and places them by the policy in their jobs. The command moves only jobs of
  type service that allow it with meta { aliquot_defrag = "true" }. While it moves an
  allocation, all others of the group keep running: at least one, or the number in the
  meta aliquot_defrag_min_healthy. The node that the allocation leaves is ineligible
  until the successor is healthy by the job's update or migrate block. A successor that
  only runs does not count.

  aliquot top -fragmentation shows what can be gained. Nomad plans each move, so the
  constraints of the job hold; an allocation without another place stays. NOMAD_TOKEN
  needs node:write, and read-job, alloc-lifecycle and submit-job in the namespaces of
  the jobs. With -dry-run it needs node:read, read-job and submit-job.

Options:

  -dry-run   Print the moves and exit. Default false.
  -most      Largest number of moves. Default 10.
  -at-once   Moves at the same time, each of another group. Default 1.
  -timeout   Longest wait for a successor to become healthy. Default 5m.
  -demand    A file with the typical demand, instead of the one in Consul KV.

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
	// settled holds the IDs of the allocations that existed before the run. Any other counts as
	// healthy only once Nomad has found it healthy.
	settled map[string]bool
}

func (c jobDefragCommand) Run(args []string) int {
	flags := newFlags("job defrag", c.ui)
	dry := flags.Bool("dry-run", false, "")
	most := flags.Int("most", maxMoves, "")
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
		if f, err = account.Report(ctx, d.nomad, d.demand, account.MoveLimits{Max: *most, OnlyMovable: true,
			Fits: d.fits}); err == nil {
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

// run moves allocations in rounds. It computes the best moves again after each round, because
// Nomad decides where the successors go.
func (d defrag) run(ctx context.Context, most, atOnce int) error {
	tried := map[string]bool{} // IDs and names of allocations, so that none moves twice
	for done := 0; done < most; {
		f, err := account.Report(ctx, d.nomad, d.demand, account.MoveLimits{Max: most + len(tried), OnlyMovable: true,
			Fits: d.fits})
		if err != nil {
			return err
		}
		if d.settled == nil {
			d.settled = allocations(f.Nodes)
		}
		round := choose(f.Moves, tried, min(atOnce, most-done))
		if len(round) == 0 {
			d.ui.Output(fmt.Sprintf("%d allocations moved; no other useful move is allowed", done))
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

// choose returns the best moves that share no group and no node.
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

// move stops one allocation and waits until its group is as healthy as before. It returns false
// if the allocation has to stay, after telling the user why.
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
	if m.From.Open { // a node that someone has made ineligible stays so
		if _, err := d.nomad.Nodes().ToggleEligibility(m.From.ID, false, nil); err != nil {
			return false, fmt.Errorf("cannot make node %s ineligible: %w", m.From.Name, err)
		}
		defer func() {
			if _, failed := d.nomad.Nodes().ToggleEligibility(m.From.ID, true, nil); failed != nil && err == nil {
				err = fmt.Errorf("node %s is still ineligible: %w; run  nomad node eligibility -enable %.8s",
					m.From.Name, failed, m.From.ID)
			}
		}()
	}
	// Now that the node is closed, Nomad's plan shows whether constraints, vendor, pool, ports and
	// volumes leave a place for the successor.
	if why, err := d.place(ctx, job, a); err != nil || why != "" {
		return false, d.stays(a, why, err)
	}
	if _, err := d.nomad.Allocations().Stop(&nomad.Allocation{ID: a.ID},
		(&nomad.QueryOptions{Namespace: a.Namespace}).WithContext(ctx)); err != nil {
		return false, fmt.Errorf("cannot stop allocation %.8s of %s: %w", a.ID, a.JobID, err)
	}
	err = d.await(ctx, m, before)
	return err == nil, err
}

// stays tells the user why an allocation is not moved, unless err prevented finding out.
func (d defrag) stays(a *nomad.Allocation, why string, err error) error {
	if err == nil {
		d.ui.Warn(fmt.Sprintf("%s/%s: %.8s stays: %s", a.JobID, a.TaskGroup, a.ID, why))
	}
	return err
}

// await waits until as many allocations of the group are healthy as before, without the stopped
// one.
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
			why := fmt.Sprintf("its successor was not healthy within %s", d.timeout)
			if ctx.Err() != nil {
				why = "the command was interrupted before its successor was healthy"
			}
			return fmt.Errorf("allocation %.8s of %s was stopped, and %s; see nomad job status %s", m.Allocation.ID,
				m.Allocation.JobID, why, m.Allocation.JobID)
		}
	}
}

// allowed reads the job again right before the move. It returns the reason to refuse the move, ""
// if the move is allowed.
func (d defrag) allowed(ctx context.Context, a *nomad.Allocation, healthy int) (*nomad.Job, string, error) {
	job, _, err := d.nomad.Jobs().Info(a.JobID, (&nomad.QueryOptions{Namespace: a.Namespace}).WithContext(ctx))
	if err != nil {
		return nil, "", fmt.Errorf("cannot read job %s: %w", a.JobID, err)
	}
	tg := job.LookupTaskGroup(a.TaskGroup)
	if tg == nil {
		return nil, "its job no longer has this group", nil
	}
	return job, account.Refusal(job, tg, healthy), nil
}

// healthy returns the names of the nodes that run healthy allocations of the group of an
// allocation, by allocation ID.
func (d defrag) healthy(ctx context.Context, of *nomad.Allocation) (map[string]string, error) {
	list, _, err := d.nomad.Jobs().Allocations(of.JobID, false,
		(&nomad.QueryOptions{Namespace: of.Namespace}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("cannot read the allocations of job %s: %w", of.JobID, err)
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
