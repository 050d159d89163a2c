package top

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// marks name the allocations of one GPU in its bar, in order of appearance.
const marks = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// Render draws the snapshot as plain text that fits 100 columns for GPUs of up to 20 slices. In a
// bar, a letter is an allocation, a dot a free slice, an x an unhealthy slice, and a question mark a
// slice that the token may not see. All slices of a GPU are equal, so the slices of one allocation
// are next to each other.
func Render(w io.Writer, s Snapshot) error {
	for _, n := range s.Nodes {
		line := fmt.Sprintf("node %s  %s  %s", n.Name, short(n.ID), n.Status)
		if n.Problem != "" {
			line += "  " + n.Problem
		}
		fmt.Fprintln(w, line)
		for _, g := range n.GPUs {
			renderGPU(w, g)
		}
	}
	if len(s.Nodes) == 0 {
		fmt.Fprintln(w, "no node reports a GPU")
	}
	if err := renderServices(w, s.Services); err != nil {
		return err
	}
	if err := renderTokens(w, s.Services); err != nil {
		return err
	}
	if err := renderStarts(w, s.Starts); err != nil {
		return err
	}
	if err := renderColdStarts(w, s.Services); err != nil {
		return err
	}
	for _, note := range s.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	return nil
}

func renderGPU(w io.Writer, g GPU) {
	bar, holders := g.Bar()
	fmt.Fprintf(w, "  %-12s [%s] %2d%s/%d  %s  %s  %s\n", g.Group, bar, g.Used(),
		map[bool]string{true: "+"}[g.Unseen && g.Used() < len(g.Slices)], len(g.Slices),
		use(g), enforcement(g), health(g))
	for _, h := range holders {
		fmt.Fprintf(w, "  %-12s  %c %s %s/%s  %d\n", "", h.Mark, short(h.Allocation), h.Job, h.Task, h.Slices)
	}
}

// Holder is an allocation's task in a GPU's bar.
type Holder struct {
	Mark                  byte
	Allocation, Job, Task string
	Slices                int
}

// Bar draws the GPU's slices with one letter each, and returns the holders that the letters mean.
func (g GPU) Bar() (string, []Holder) {
	var bar strings.Builder
	var holders []Holder
	for _, s := range SideBySide(g.Slices) {
		switch {
		case s.Allocation != "":
			i := 0
			for i < len(holders) && (holders[i].Allocation != s.Allocation || holders[i].Task != s.Task) {
				i++
			}
			if i == len(holders) {
				holders = append(holders, Holder{marks[i%len(marks)], s.Allocation, s.Job, s.Task, 0})
			}
			holders[i].Slices++
			bar.WriteByte(holders[i].Mark)
		case !s.Healthy:
			bar.WriteByte('x')
		case g.Unseen:
			bar.WriteByte('?')
		default:
			bar.WriteByte('.')
		}
	}
	return bar.String(), holders
}

// SideBySide sorts the slices of a GPU, which are all equal: first held slices by task, then
// unhealthy ones, then free ones.
func SideBySide(list []Slice) []Slice {
	return slices.SortedStableFunc(slices.Values(list), func(a, b Slice) int {
		return cmp.Or(order(a)-order(b), strings.Compare(a.Job+a.Task, b.Job+b.Task),
			strings.Compare(a.Allocation, b.Allocation))
	})
}

// order sorts held slices before unhealthy ones, and these before free ones.
func order(s Slice) int {
	switch {
	case s.Allocation != "":
		return 0
	case !s.Healthy:
		return 1
	}
	return 2
}

func use(g GPU) string {
	memory := fmt.Sprintf("-/%d MiB", g.MemoryMiB)
	if g.MemoryUsedMiB >= 0 {
		memory = fmt.Sprintf("%d/%d MiB", g.MemoryUsedMiB, g.MemoryMiB)
	}
	if g.UsePercent < 0 {
		return "  -%  " + memory
	}
	return fmt.Sprintf("%3.0f%%  %s", g.UsePercent, memory)
}

func enforcement(g GPU) string {
	if g.Level == "" || g.Level == "none" {
		return g.Enforcement
	}
	return g.Enforcement + " (" + g.Level + ")"
}

func health(g GPU) string {
	if g.Healthy {
		return "healthy"
	}
	if g.Health == "" {
		return "UNHEALTHY"
	}
	return "UNHEALTHY: " + g.Health
}

func renderServices(w io.Writer, services []Service) error {
	if len(services) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "service\tqueued\tactive\tclass\treplicas\tslots\tactive\trate/slot\t")
	for _, s := range services {
		head := fmt.Sprintf("%s\t%.0f\t%.0f\t", s.Name, s.Queued, s.Active)
		if len(s.Classes) == 0 {
			fmt.Fprintln(t, head+"-\t0\t0\t0\t-\t")
		}
		for _, c := range s.Classes {
			rate := "-"
			if c.Rate > 0 {
				rate = fmt.Sprintf("%.2f/s", c.Rate)
			}
			replicas := strconv.Itoa(c.Replicas)
			if c.Asleep > 0 {
				replicas = fmt.Sprintf("%d (%d asleep)", c.Replicas, c.Asleep)
			}
			fmt.Fprintf(t, "%s%s\t%s\t%d\t%.0f\t%s\t\n", head, c.Name, replicas, c.Slots, c.Active, rate)
			head = "\t\t\t"
		}
	}
	return t.Flush()
}

// renderTokens draws the token rates of language models.
func renderTokens(w io.Writer, services []Service) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	drawn := false
	for _, s := range services {
		if s.Tokens == nil {
			continue
		}
		if !drawn {
			fmt.Fprintln(t, "last minute\tanswers\tttft\ttpot\twithin slo\tprompt tok/s\toutput tok/s\t")
			drawn = true
		}
		ttft, tpot, within := "-", "-", "-"
		if s.Tokens.TTFT > 0 {
			ttft = fmt.Sprintf("%.2fs", s.Tokens.TTFT)
		}
		if s.Tokens.TPOT > 0 {
			tpot = fmt.Sprintf("%.0fms", s.Tokens.TPOT*1000)
		}
		if judged := s.Tokens.Met + s.Tokens.Missed; judged > 0 {
			within = fmt.Sprintf("%.1f%%", 100*float64(s.Tokens.Met)/float64(judged))
			if s.Quantile > 0 {
				within += fmt.Sprintf(" of %.4g%%", 100*s.Quantile)
			}
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%.0f\t%.0f\t\n", s.Name, s.Tokens.Ended, ttft, tpot, within,
			float64(s.Tokens.Prompt)/60, float64(s.Tokens.Output)/60)
	}
	return t.Flush()
}

func short(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}
