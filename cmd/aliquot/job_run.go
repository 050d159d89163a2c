package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/cli"
	nomad "github.com/hashicorp/nomad/api"
)

type jobRunCommand struct{ ui cli.Ui }

func (jobRunCommand) Synopsis() string { return "Submit a job with a packing policy" }

func (jobRunCommand) Help() string {
	return `Usage: aliquot job run [-pack=<policy>] [-island=<joint>] [-preserve-counts] <file>

  Submits a job with the spread and the affinities that a packing policy adds; see
  aliquot job inspect. It replaces the additions of an earlier run and changes nothing
  else. It prints the evaluation and exits; follow the job with nomad job status.

` + jobOptions + `  -preserve-counts  Keep the counts of a running job, for example those that the
                    autoscaler has set. Default false.

Example:

  aliquot job run -var model=qwen3 jobs/vllm.nomad.hcl
`
}

func (c jobRunCommand) Run(args []string) int {
	flags := newFlags("job run", c.ui)
	preserve := flags.Bool("preserve-counts", false, "")
	f, ok := parseJob(flags, args)
	if !ok {
		return 2
	}
	s, err := f.steer(context.Background())
	if err != nil {
		c.ui.Error("aliquot job run: " + flat(err))
		return 1
	}
	s.printNotes(c.ui)
	answer, _, err := s.nomad.Jobs().RegisterOpts(s.job, &nomad.RegisterOptions{PreserveCounts: *preserve}, s.write())
	if err != nil {
		c.ui.Error("aliquot job run: " + flat(err))
		return 1
	}
	if answer.Warnings != "" {
		c.ui.Warn(strings.TrimSpace(answer.Warnings))
	}
	c.ui.Output(fmt.Sprintf("Job %s submitted with policy %s, evaluation %s", *s.job.ID, s.policy, answer.EvalID))
	return 0
}

// write returns options with the namespace and the region of the job. Without them, those of the
// environment would override the job's. If the job names none, the environment's count.
func (s steered) write() *nomad.WriteOptions {
	q := &nomad.WriteOptions{}
	if s.job.Namespace != nil {
		q.Namespace = *s.job.Namespace
	}
	if s.job.Region != nil {
		q.Region = *s.job.Region
	}
	return q
}

type jobPlanCommand struct{ ui cli.Ui }

func (jobPlanCommand) Synopsis() string { return "Plan a job with a packing policy" }

func (jobPlanCommand) Help() string {
	return `Usage: aliquot job plan [-pack=<policy>] [-island=<joint>] <file>

  Asks Nomad for a plan of the job with the policy's additions, and prints the
  changes and placements.

  Exits with 0 if nothing would change, with 1 if allocations would be placed or
  changed, and with 255 on an error, as nomad job plan does.

` + jobOptions + `
Example:

  aliquot job plan -pack=spread jobs/vllm.nomad.hcl
`
}

func (c jobPlanCommand) Run(args []string) int {
	const failed = 255
	f, ok := parseJob(newFlags("job plan", c.ui), args)
	if !ok {
		return failed
	}
	s, err := f.steer(context.Background())
	if err != nil {
		c.ui.Error("aliquot job plan: " + flat(err))
		return failed
	}
	s.printNotes(c.ui)
	plan, _, err := s.nomad.Jobs().Plan(s.job, true, s.write())
	if err != nil {
		c.ui.Error("aliquot job plan: " + flat(err))
		return failed
	}
	text, changes := planned(plan)
	c.ui.Output(text)
	if changes {
		return 1
	}
	return 0
}

// planned describes a plan, and reports whether it changes anything.
func planned(p *nomad.JobPlanResponse) (text string, changes bool) {
	var b strings.Builder
	if p.Warnings != "" {
		b.WriteString(strings.TrimSpace(p.Warnings) + "\n")
	}
	if p.Diff != nil {
		fmt.Fprintf(&b, "Job %s: %s\n", p.Diff.ID, strings.ToLower(p.Diff.Type))
		changes = p.Diff.Type != "None"
		for _, g := range p.Diff.TaskGroups {
			fmt.Fprintf(&b, "  group %s: %s", g.Name, strings.ToLower(g.Type))
			kinds := make([]string, 0, len(g.Updates))
			for kind, n := range g.Updates {
				kinds = append(kinds, fmt.Sprintf("%d %s", n, kind))
			}
			slices.Sort(kinds)
			if len(kinds) > 0 {
				b.WriteString(" (" + strings.Join(kinds, ", ") + ")")
			}
			b.WriteString("\n")
			for _, o := range g.Objects {
				if o.Type != "None" {
					fmt.Fprintf(&b, "    %s: %s\n", strings.ToLower(o.Name), strings.ToLower(o.Type))
				}
			}
		}
	}
	for group, m := range p.FailedTGAllocs {
		changes = true
		fmt.Fprintf(&b, "Group %s: no place for %d allocations: %d nodes evaluated, exhausted: %v, filtered: %v\n",
			group, m.CoalescedFailures+1, m.NodesEvaluated, m.DimensionExhausted, m.ConstraintFiltered)
	}
	fmt.Fprintf(&b, "Job modify index: %d", p.JobModifyIndex)
	return b.String(), changes
}
