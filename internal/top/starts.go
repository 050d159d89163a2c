package top

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/learned"
)

// Start is the mean duration of a task's starts on one kind of GPU, from the task driver's events
// that Nomad still has.
type Start struct {
	Job  string `json:"job"`
	Task string `json:"task"`
	// Group is the device group without its number, such as h100.
	Group string `json:"group"`
	Count int    `json:"count"`
	// Seconds are the mean seconds by part; see learned.StartParts. A start without a part counts as
	// 0 for it.
	Seconds map[string]float64 `json:"seconds"`
}

// startsOf returns the starts of allocations that hold GPUs.
func startsOf(allocs []*api.Allocation) (all []Start) {
	for _, a := range allocs {
		if a.AllocatedResources == nil {
			continue
		}
		for task, state := range a.TaskStates {
			r := a.AllocatedResources.Tasks[task]
			if r == nil || len(r.Devices) == 0 {
				continue
			}
			for _, e := range state.Events {
				if seconds := learned.PartsIn(e.Details); seconds != nil {
					all = append(all, Start{a.JobID, task, withoutNumber(r.Devices[0].Name), 1, seconds})
				}
			}
		}
	}
	return all
}

func withoutNumber(group string) string {
	if i := strings.LastIndexByte(group, '-'); i > 0 {
		if _, err := strconv.Atoi(group[i+1:]); err == nil {
			return group[:i]
		}
	}
	return group
}

// mean returns the mean of the starts for each job, task and kind of GPU.
func mean(starts []Start) []Start {
	type key struct{ job, task, group string }
	sums := map[key]Start{}
	for _, s := range starts {
		k := key{s.Job, s.Task, s.Group}
		sum, ok := sums[k]
		if !ok {
			sum = Start{s.Job, s.Task, s.Group, 0, map[string]float64{}}
		}
		sum.Count += s.Count
		for name, seconds := range s.Seconds {
			sum.Seconds[name] += seconds * float64(s.Count)
		}
		sums[k] = sum
	}
	out := slices.Collect(maps.Values(sums))
	for _, s := range out {
		for name := range s.Seconds {
			s.Seconds[name] /= float64(s.Count)
		}
	}
	slices.SortFunc(out, func(a, b Start) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Task, b.Task), cmp.Compare(a.Group, b.Group))
	})
	return out
}

// renderStarts draws the durations of starts, in seconds.
func renderStarts(w io.Writer, starts []Start) error {
	if len(starts) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "start of\ton\tstarts\timage s\tmodels s\tcompile cache s\tcontainer s\tload s")
	for _, s := range starts {
		fmt.Fprintf(t, "%s/%s\t%s\t%d", s.Job, s.Task, s.Group, s.Count)
		for _, name := range learned.StartParts {
			seconds, ok := s.Seconds[name]
			cell(t, seconds, ok)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}
