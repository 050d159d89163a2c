package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"aliquot.example/internal/account"
)

// maxMoves is the largest number of moves that a report lists.
const maxMoves = 10

// fragmentationTable shows the free capacity, how much of it cannot be used, and the moves that
// would make it usable.
func fragmentationTable(f account.Fragmentation) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tGPUS\tFREE\tSTRANDED\tWASTE\tCPU MHZ FREE\tMEMORY MIB FREE\t")
	var all, free, stranded, waste float64
	for _, n := range f.Nodes {
		total := 0.0
		for _, g := range n.Free.Groups {
			total += float64(g.Total) * g.Unit
		}
		s, e := f.Demand.Stranded(n.Free), f.Demand.Waste(n.Free)
		note := ""
		if !n.Open {
			note = "takes no tasks"
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%d\t%d\t%s\n", n.Name, total, n.Free.Free(), s, e, n.Free.CPU,
			n.Free.MemoryMiB, note)
		all, free, stranded, waste = all+total, free+n.Free.Free(), stranded+s, waste+e
	}
	fmt.Fprintf(w, "all\t%.2f\t%.2f\t%.2f\t%.2f\t\t\t\n", all, free, stranded, waste)
	_ = w.Flush()
	b.WriteString("\nIn GPUs. STRANDED: no task of the typical demand can use it. WASTE: " +
		"what an average\ntask of the demand cannot use.\n\n")
	b.WriteString(movesTable(f.Moves))
	return b.String()
}

// document is a report as JSON, in GPUs.
type document struct {
	Nodes []nodeDocument `json:"nodes"`
	Moves []moveDocument `json:"moves"`
}

type nodeDocument struct {
	Name     string  `json:"name"`
	Free     float64 `json:"free"`
	Stranded float64 `json:"stranded"`
	Waste    float64 `json:"waste"`
}

type moveDocument struct {
	Allocation string  `json:"allocation"`
	Job        string  `json:"job"`
	From       string  `json:"from"`
	To         string  `json:"to"`
	Gain       float64 `json:"gain"`
	Refused    string  `json:"refused,omitempty"`
}

func fragmentationDocument(f account.Fragmentation) document {
	out := document{Nodes: []nodeDocument{}, Moves: []moveDocument{}}
	for _, n := range f.Nodes {
		out.Nodes = append(out.Nodes, nodeDocument{n.Name, n.Free.Free(), f.Demand.Stranded(n.Free),
			f.Demand.Waste(n.Free)})
	}
	for _, m := range f.Moves {
		out.Moves = append(out.Moves, moveDocument{m.Allocation.ID, m.Allocation.JobID, m.From.Name, m.To.Name, m.Gain,
			m.Refused})
	}
	return out
}

func movesTable(moves []account.Move) string {
	if len(moves) == 0 {
		return "No move of a single allocation would make more capacity usable."
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MOVE\tJOB\tGPUS\tFROM\tTO\tLESS WASTE\t")
	for _, m := range moves {
		note := ""
		if m.Refused != "" {
			note = "not by defrag: " + m.Refused
		}
		fmt.Fprintf(w, "%.8s\t%s/%s\t%.2f\t%s\t%s\t%.2f\t%s\n", m.Allocation.ID, m.Allocation.JobID,
			m.Allocation.TaskGroup, m.GPU, m.From.Name, m.To.Name, m.Gain, note)
	}
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}
