package profiler

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"aliquot.example/internal/profile"
)

// Print writes the report as text.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s\n", r.title())
	if r.Interrupted {
		fmt.Fprintln(w, "The benchmark was stopped early. Results so far:")
	}
	r.printPoints(w)
	r.printCurve(w)
	r.printLoads(w)
	r.printBest(w)
	if r.Changed != "" {
		fmt.Fprintf(w, "\nSince the last profile: %s\n", r.Changed)
	}
	for _, f := range r.Faults {
		times := ""
		if f.Times > 1 {
			times = fmt.Sprintf(" (%d times)", f.Times)
		}
		fmt.Fprintf(w, "\nThe server %s%s: %s\n", f.Kind.did(), times, f.Detail)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "\nNote: %s\n", n)
	}
	if len(r.Left) > 0 {
		fmt.Fprintln(w, "\nNot measured:")
		for _, l := range r.Left {
			fmt.Fprintf(w, "  %s\n", l)
		}
	}
}

func (r *Report) title() string {
	parts := []string{r.About.Model}
	if r.About.Model == "" {
		parts[0] = "A server"
	}
	if r.About.Engine.Kind != "" || r.About.Version != "" {
		parts = append(parts, strings.TrimSpace(r.About.Engine.Kind+" "+r.About.Version))
	}
	if r.About.Engine.KVTokens > 0 {
		parts = append(parts, fmt.Sprintf("cache of %d tokens", r.About.Engine.KVTokens))
	}
	return fmt.Sprintf("%s: %d answers in %s", strings.Join(parts, ", "), r.Answers,
		time.Duration(r.Seconds*float64(time.Second)).Round(time.Second))
}

func table(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
}

// ms formats a mean in milliseconds, with its relative half interval.
func ms(m profile.Mean) string {
	switch {
	case m.N == 0:
		return "-"
	case math.IsInf(m.Half, 0):
		return fmt.Sprintf("%.4g", 1e3*m.Value)
	}
	return fmt.Sprintf("%.4g ±%.1f%%", 1e3*m.Value, 100*m.Half/m.Value)
}

func (r *Report) printPoints(w io.Writer) {
	if len(r.Points) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := table(w)
	fmt.Fprintln(t, "at once\tprompt\trounds\tfirst token ms\tcurve\tstep ms\tcurve\tanswers tokens/s\t")
	for _, p := range r.Points {
		prefill, step := "", ""
		if c := r.Curve; c != nil && p.Concurrency == 1 {
			prefill = fmt.Sprintf("%.4g", 1e3*max(c.PrefillTime(p.Tokens), c.StepTime(1, p.Tokens)))
		}
		if c := r.Curve; c != nil && p.Step.N > 0 {
			step = fmt.Sprintf("%.4g", 1e3*c.StepTime(float64(p.Concurrency), p.KV))
		}
		fmt.Fprintf(t, "%d\t%.0f\t%d\t%s\t%s\t%s\t%s\t%.0f\t\n", p.Concurrency, p.Tokens, p.Rounds, ms(p.First),
			prefill, ms(p.Step), step, p.Written.Value)
	}
	t.Flush()
}

func (r *Report) printCurve(w io.Writer) {
	c := r.Curve
	if c == nil {
		return
	}
	prefillErrors, stepErrors := r.Prefill.Errors, r.Step.Errors
	fmt.Fprintf(w, "\nA prompt of t tokens takes %.3g ms (±%.2g) + t x %.4g µs (±%.2g)", 1e3*c.Start,
		1e3*prefillErrors[0], 1e6*c.Prefill, 1e6*prefillErrors[1])
	if c.Growth > 0 {
		fmt.Fprintf(w, ", and %.2g times as much more for each token before it", c.Growth)
	}
	fmt.Fprintf(w, ":\n  %s\n", r.Prefill)
	fmt.Fprintf(w,
		"A step of n answers with k tokens in the cache takes %.4g ms (±%.2g) + n x %.4g µs (±%.2g) + k x %.4g ns "+
			"(±%.2g):\n  %s\n",
		1e3*c.A, 1e3*stepErrors[0], 1e6*c.B, 1e6*stepErrors[1], 1e9*c.C, 1e9*stepErrors[2], r.Step)
}

// String describes how well a curve fits.
func (q *Quality) String() string {
	verdict := "it fits"
	if q.Poor() {
		verdict = "it does not fit"
	}
	return fmt.Sprintf("%s: off by %.1f%% on average over %d points, at worst %+.1f%% with %s", verdict, 100*q.Mean,
		q.Points, 100*q.Worst, q.At)
}

func (r *Report) printLoads(w io.Writer) {
	if len(r.Closed)+len(r.Open) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := table(w)
	fmt.Fprintln(t,
		"load\tanswers\tanswers/s\tcurve\ttokens/s\tfirst token p50\tp99\ttoken p50\tp99\tend p99\twithin objective\t")
	for _, all := range [][]Load{r.Closed, r.Open} {
		for i := range all {
			l := &all[i]
			name := fmt.Sprintf("%d callers", l.Concurrency)
			if l.Open {
				name = fmt.Sprintf("%.3g/s at random", l.Offered)
			}
			expected := ""
			if l.Expected > 0 {
				expected = fmt.Sprintf("%.3g", l.Expected)
			}
			fmt.Fprintf(t, "%s\t%d\t%.3g\t%s\t%.0f\t%s\t%s\t%s\t%s\t%s\t%.1f%%\t\n", name, l.Answers, l.Rate.Value,
				expected, l.Tokens(),
				span(l.First50), span(l.First99), span(l.Pace50), span(l.Pace99), span(l.Took99), 100*l.Within)
		}
	}
	t.Flush()
}

// span formats seconds in a suitable unit.
func span(seconds float64) string {
	switch {
	case seconds == 0:
		return "-"
	case seconds < 1:
		return fmt.Sprintf("%.3g ms", 1e3*seconds)
	}
	return fmt.Sprintf("%.3g s", seconds)
}

// String formats an objective.
func (o Objective) String() string {
	var parts []string
	for _, one := range []struct {
		name  string
		limit time.Duration
	}{{"ttft", o.TTFT}, {"tpot", o.TPOT}, {"e2e", o.E2E}} {
		if one.limit > 0 {
			parts = append(parts, one.name+" "+one.limit.String())
		}
	}
	if len(parts) == 0 {
		return "no objective"
	}
	return strings.Join(parts, ", ")
}

func (r *Report) printBest(w io.Writer) {
	b := r.Best
	if b == nil {
		return
	}
	if b.Rate == 0 {
		fmt.Fprintf(w, "\nWithin %s: no load, because even a single request misses it\n", r.Objective)
		return
	}
	how := "by the curves"
	if b.Measured {
		how = "as measured"
	}
	fmt.Fprintf(w, "\nWithin %s, %s: %.0f at once, %.3g answers/s", r.Objective, how, b.Concurrency, b.Rate)
	if b.Tokens > 0 {
		fmt.Fprintf(w, ", %.0f tokens/s of answers", b.Tokens)
	}
	if b.PerCost > 0 {
		fmt.Fprintf(w, ", %.3g tokens per unit of cost", b.PerCost)
	}
	fmt.Fprintln(w)
	most := 0
	for i := range r.Points {
		most = max(most, r.Points[i].Concurrency)
	}
	if !b.Measured && b.Concurrency > float64(most) {
		fmt.Fprintf(w, "  No more than %d at once were measured: above that, the curves predict the result.\n", most)
	}
}
