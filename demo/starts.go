package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/learned"
)

// coldStart is the time from a request for a service without replicas to the first byte of its
// answer, divided by cause.
type coldStart struct {
	service, which  string
	asked, answered time.Time
	// ready is when the first replica was ready, and parts is the time of its start by cause. They
	// are zero and nil if the driver did not report them.
	ready time.Time
	parts map[string]float64
}

// again is the request of the second start, for which the image is already on the node.
var again = call{input: 100, output: 20, stream: true}

// fromZero returns the first starts of the services in the replay.
func (s *summary) fromZero(ctx context.Context, c *cluster.Cluster) []coldStart {
	var all []coldStart
	for _, service := range []string{chat, code} {
		if first, ok := first(s.of(service)); ok {
			all = append(all, startOf(ctx, c, "first", s.began, first))
		}
	}
	return all
}

// startAgain sends one more request to both services, which have no replicas.
func startAgain(ctx context.Context, c *cluster.Cluster, r *replay) (all []coldStart, err error) {
	for _, service := range []string{chat, code} {
		asks := again
		asks.service, asks.at = service, r.since()
		res := r.send(ctx, asks)
		if res.problem != "" {
			err = errors.Join(err, fmt.Errorf("the second start of %s: %s", service, res.problem))
			continue
		}
		all = append(all, startOf(ctx, c, "again", r.started, res))
	}
	return all, err
}

// partsTimeout is how long after the answer the driver may report the parts of a start.
const partsTimeout = 15 * time.Second

// startOf returns the start of the first replica that was ready for a request.
func startOf(ctx context.Context, c *cluster.Cluster, which string, began time.Time, r result) coldStart {
	out := coldStart{service: r.service, which: which, asked: began.Add(r.at), answered: began.Add(r.first)}
	_ = cluster.AwaitWithin(ctx, partsTimeout, "what the start of "+r.service+" took", func() string {
		stubs, _, err := c.Nomad.Jobs().Allocations(r.service, true, (&nomad.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err.Error()
		}
		out.take(stubs)
		if out.parts == nil {
			return "no replica says so"
		}
		return ""
	})
	return out
}

// take records the start of the first ready replica of those placed for the request.
func (s *coldStart) take(stubs []*nomad.AllocationListStub) {
	for _, stub := range stubs {
		if stub.CreateTime < s.asked.UnixNano() {
			continue
		}
		for _, state := range stub.TaskStates {
			for _, e := range state.Events {
				parts, at := learned.PartsIn(e.Details), time.Unix(0, e.Time)
				if parts != nil && (s.parts == nil || at.Before(s.ready)) {
					s.ready, s.parts = at, parts
				}
			}
		}
	}
}

// column is one cause in a cold start.
type column struct {
	name string
	took time.Duration
}

// columns divides the time by cause. The part before the driver is the decision and Nomad's
// placement. The part after the replica is ready is Consul's check, the gateway, and the answer
// itself.
func (s *coldStart) columns() []column {
	all := []column{{"PLACED", 0}}
	// The driver checks readiness less often than Consul, so an answer can come before the driver's
	// report. The rest of that wait is not part of the start.
	late := max(0, s.ready.Sub(s.answered))
	ready := s.ready.Add(-late)
	driver := time.Duration(0)
	for _, part := range learned.StartParts {
		d := time.Duration(s.parts[part] * float64(time.Second))
		if part == "load" {
			d = max(0, d-late)
		}
		driver += d
		all = append(all, column{map[string]string{"image": "IMAGE", "models": "MODEL", "compile_cache": "COMPILED",
			"container": "CONTAINER", "load": "LOAD"}[part], d})
	}
	all[0].took = ready.Add(-driver).Sub(s.asked)
	return append(all, column{"ANSWER", s.answered.Sub(ready)}, column{"ALL", s.answered.Sub(s.asked)})
}

// printStarts prints the starts from zero, each split by cause.
func printStarts(w io.Writer, starts []coldStart) {
	if len(starts) == 0 {
		return
	}
	fmt.Fprintln(w, "From zero to the first byte, by cause")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "SERVICE\tSTART")
	for _, c := range starts[0].columns() {
		fmt.Fprint(t, "\t", c.name)
	}
	fmt.Fprintln(t)
	for _, s := range starts {
		fmt.Fprintf(t, "%s\t%s", s.service, s.which)
		for _, c := range s.columns() {
			text := seconds(c.took)
			if s.parts == nil && c.name != "ALL" {
				text = "-"
			}
			fmt.Fprint(t, "\t", text)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
}
