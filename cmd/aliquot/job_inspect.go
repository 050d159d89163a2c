package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/cli"

	"aliquot.example/internal/pack"
	"aliquot.example/internal/steer"
)

type jobInspectCommand struct{ ui cli.Ui }

func (jobInspectCommand) Synopsis() string { return "Show what a packing policy adds to a job" }

func (jobInspectCommand) Help() string {
	return `Usage: aliquot job inspect [-pack=<policy>] [-island=<joint>] [-json] <file>

  Prints for each group of a job what a packing policy adds and why, as blocks that
  you can paste into the job file. Nomad parses the file; nothing is submitted. The
  file - is standard input.

` + jobOptions + `  -json        Print the whole job with the additions, as JSON for
               nomad job run -json. Default false.

Example:

  aliquot job inspect -pack=best-fit jobs/vllm.nomad.hcl
`
}

func (c jobInspectCommand) Run(args []string) int {
	flags := newFlags("job inspect", c.ui)
	asJSON := flags.Bool("json", false, "")
	f, ok := parseJob(flags, args)
	if !ok {
		return 2
	}
	s, err := f.steer(context.Background())
	if err != nil {
		c.ui.Error("aliquot job inspect: " + flat(err))
		return 1
	}
	if *asJSON {
		out, err := json.MarshalIndent(map[string]any{"Job": s.job}, "", "  ")
		if err != nil {
			c.ui.Error("aliquot job inspect: " + flat(err))
			return 1
		}
		c.ui.Output(string(out))
		return 0
	}
	c.ui.Output(s.text())
	return 0
}

// text describes for each group what the policy added and why.
func (s steered) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Job %s, policy %s, typical demand from %s.\n", *s.job.ID, s.policy, s.from)
	for _, c := range s.changes {
		fmt.Fprintf(&b, "\nGroup %s requests %s.\n", c.Group, asked(c.Ask))
		if c.Removed > 0 {
			fmt.Fprintf(&b, "  The policy replaces %d blocks of an earlier run.\n", c.Removed)
		}
		if c.Class.Name == "" {
			b.WriteString("  The policy adds nothing.\n")
		} else {
			fmt.Fprintf(&b, "  %s\n", explain(s.policy, c))
		}
		for _, note := range c.Notes {
			fmt.Fprintf(&b, "  Note: %s.\n", note)
		}
		paste(&b, "group \""+c.Group+"\"", steer.Group(c.Added))
		paste(&b, "its device blocks", steer.Device(c.Added))
	}
	for _, j := range s.joined {
		fmt.Fprintf(&b, "\nDevice %s of task %s in group %s", j.Device, j.Task, j.Group)
		if j.Constraint == nil {
			fmt.Fprintf(&b, " has no island: %s.\n", j.Note)
			continue
		}
		fmt.Fprintf(&b, " gets its %d GPUs from one island that has enough free.\n", j.Count)
		if j.Note != "" {
			fmt.Fprintf(&b, "  Note: %s.\n", j.Note)
		}
		paste(&b, "the device block", steer.Constraint(j.Constraint))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// explain explains the additions in one sentence.
func explain(p pack.Policy, c steer.Change) string {
	switch p {
	case pack.Fragmentation:
		return fmt.Sprintf("The group belongs to class %s. Nodes publish in %s how much capacity such a task "+
			"would make unusable: nodes with the least come first, and among these nodes with the least free.",
			c.Class.Name, c.Class.Attribute())
	case pack.BestFit:
		return fmt.Sprintf("Nodes publish in %s how much GPU capacity is free: nodes with the least come first.",
			pack.RoomAttribute)
	}
	return fmt.Sprintf("Nodes publish in %s how much GPU capacity is free: nodes with the most come first.",
		pack.RoomAttribute)
}

func asked(a pack.Ask) string {
	host := fmt.Sprintf("%d MHz and %d MiB", a.CPU, a.MemoryMiB)
	switch {
	case a.Requests == 0:
		return "no GPU, " + host
	case a.Requests == 1 && a.Of == 1:
		return fmt.Sprintf("%d whole GPUs of one group, %s", a.Instances, host)
	case a.Requests == 1:
		return fmt.Sprintf("%d GPU instances of one group, %s", a.Instances, host)
	}
	return fmt.Sprintf("%d times %d GPU instances, %s", a.Requests, a.Instances, host)
}

func paste(b *strings.Builder, where, blocks string) {
	if blocks == "" {
		return
	}
	fmt.Fprintf(b, "\n  # into %s\n", where)
	for line := range strings.Lines(blocks) {
		b.WriteString("  " + line)
	}
}
