package replay

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"aliquot.example/internal/scale"
	"aliquot.example/simulate"
)

// runObjective replays on replicas that batch, with counts that follow the objective.
func (r *Replay) runObjective(w io.Writer, trace []simulate.Request) error {
	o := *r.config.Objective
	result, classes := r.promised(o, trace)
	summary := simulate.Summarize(result, classes)
	fmt.Fprintf(w, "objective      %s\nwithin         %.2f%%, %.0f%% promised\n", o,
		100*result.Attained(trace, limits(o)), 100*o.Quantile)
	printSummary(w, summary, classes, trace)
	r.printPeriods(w, result, classes, trace)
	if !r.Frontier {
		return r.plot(func(to io.Writer, format string) error {
			return simulate.Plot(to, format, r.title(), result, trace, classes)
		})
	}
	points := r.frontier(trace)
	printFrontier(w, points)
	return r.plot(func(to io.Writer, format string) error {
		return simulate.PlotFrontier(to, format, r.title(), points)
	})
}

func limits(o scale.Objective) simulate.Objective {
	return simulate.Objective{TTFT: o.TTFT, TPOT: o.TPOT, E2E: o.E2E}
}

// promised runs one replay for an objective.
func (r *Replay) promised(o scale.Objective, trace []simulate.Request) (simulate.Result, []simulate.Class) {
	classes, scaler := r.parts()
	scaler.Objective = &o
	for i := range classes {
		curve := r.curves[classes[i].Name]
		curve.Prompt, curve.Output = means(trace)
		classes[i].Curve = &curve
		scaler.Curves = append(scaler.Curves, curve)
	}
	world := r.world(classes)
	world.Objective = limits(o)
	return simulate.Run(world, trace, scaler), classes
}

// means returns the mean tokens of a prompt and of a response.
func means(trace []simulate.Request) (prompt, output float64) {
	for _, q := range trace {
		prompt += float64(q.InputTokens) / float64(len(trace))
		output += float64(q.OutputTokens) / float64(len(trace))
	}
	return prompt, output
}

// stretches are the ratios of the limits on a frontier to those of the objective.
var stretches = []float64{0.5, 0.7, 1, 1.5, 2, 3}

// frontier replays the trace with looser and tighter objectives.
func (r *Replay) frontier(trace []simulate.Request) (out []simulate.Point) {
	for _, stretch := range stretches {
		o := *r.config.Objective
		for _, limit := range []*time.Duration{&o.TTFT, &o.TPOT, &o.E2E} {
			*limit = time.Duration(stretch * float64(*limit)).Round(time.Millisecond)
		}
		result, classes := r.promised(o, trace)
		out = append(out, simulate.Point{
			Name: o.String(), Stretch: stretch,
			Attained: result.Attained(trace, limits(o)), Cost: simulate.Summarize(result, classes).Cost,
		})
	}
	return out
}

func printFrontier(w io.Writer, points []simulate.Point) {
	fmt.Fprintln(w)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "objective\twithin\tcost")
	for _, p := range points {
		fmt.Fprintf(out, "%s\t%.2f%%\t%.2f\n", p.Name, 100*p.Attained, p.Cost)
	}
	out.Flush()
}
