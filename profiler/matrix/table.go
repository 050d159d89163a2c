package matrix

import (
	"fmt"
	"io"
	"text/tabwriter"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/rightsize"
)

// Promise is an objective and the part of the requests that it covers.
type Promise struct {
	learned.Objective
	Quantile float64
}

// Print writes one table per objective for the profiles of one model, the cheapest kind of replica
// first. cost is the cost of a whole GPU per hour by class; a class may be missing.
func Print(w io.Writer, profiles []learned.Profile, objectives []Promise, cost map[string]float64) {
	for _, o := range objectives {
		fmt.Fprintf(w, "\nWithin %s for %g%% of the requests:\n", o.Objective, 100*o.Quantile)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "class\tslices\tcache tokens\tat once\tanswers/s\ttokens/s\tcost/hour\tcost of 1M answers\t\t")
		for i, c := range rows(profiles, o, cost) {
			mark := c.Refused
			if i == 0 && c.Refused == "" && len(cost) > 0 {
				mark = "cheapest"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%.0f\t%.3g\t%.0f\t%s\t%s\t%s\t\n", c.Class, learned.SlicesOf(c.Slices, c.Total),
				orDash(c.KV, "%.0f"), c.Concurrency, c.Rate, c.tokens, orDash(c.Option.Cost(), "%.3g"),
				orDash(c.price(), "%.4g"), mark)
		}
		t.Flush()
	}
}

// row is a choice with its output tokens per second.
type row struct {
	rightsize.Choice
	tokens float64
}

// price returns the cost of a million responses, 0 if unknown.
func (r row) price() float64 {
	if r.GPU == 0 {
		return 0
	}
	return r.PerMillion
}

// rows returns the kinds of replica, ordered by their cost within an objective.
func rows(profiles []learned.Profile, o Promise, cost map[string]float64) []row {
	var options []rightsize.Option
	tokens := map[rightsize.Option]float64{}
	for _, p := range profiles {
		have, of, ok := learned.ParseSlices(p.Slices)
		if !ok || p.Curve == nil {
			continue
		}
		w := learned.Promised(*p.Curve, o.Objective, o.Quantile)
		option := rightsize.Option{
			Class: p.Class, Slices: have, Total: of, Concurrency: w.Concurrency, Rate: w.Rate, KV: p.Curve.KV,
			GPU: cost[p.Class],
		}
		options = append(options, option)
		tokens[option] = w.Tokens
	}
	var out []row
	for _, c := range rightsize.Choose(options, rightsize.Need{}) {
		out = append(out, row{c, tokens[c.Option]})
	}
	return out
}

func orDash(value float64, format string) string {
	if value == 0 {
		return "-"
	}
	return fmt.Sprintf(format, value)
}
