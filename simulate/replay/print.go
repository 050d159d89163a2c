package replay

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"aliquot.example/simulate"
)

func printSummary(w io.Writer, s simulate.Summary, classes []simulate.Class, trace []simulate.Request) {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "requests\t%d in %s\n", s.Requests, trace[len(trace)-1].At.Round(time.Second))
	fmt.Fprintf(out, "wait\tmean %s, p50 %s, p95 %s, p99 %s, longest %s\n", short(s.Mean), short(s.P50), short(s.P95),
		short(s.P99), short(s.Max))
	fmt.Fprintf(out, "waited over\t1 s: %.2f%%, 10 s: %.2f%%\n", 100*s.Over1, 100*s.Over10)
	for c, class := range classes {
		fmt.Fprintf(out, "replica-hours\t%.2f of %s, cost %.2f\n", s.ReplicaHours[c], class.Name,
			s.ReplicaHours[c]*class.Cost)
	}
	if len(classes) > 1 {
		fmt.Fprintf(out, "\t%.2f together, cost %.2f\n", s.TotalHours(), s.Cost)
	}
	fmt.Fprintf(out, "reversals\t%d\n", s.Reversals)
	out.Flush()
}

func short(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func printPeriods(w io.Writer, periods []simulate.Period, classes []simulate.Class) {
	fmt.Fprintln(w)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "from\trequests\tdemand mean\tmost\tqueued most\tp95 wait")
	for _, class := range classes {
		fmt.Fprintf(out, "\t%s ready/set", class.Name)
	}
	fmt.Fprintln(out, "\t")
	for _, p := range periods {
		fmt.Fprintf(out, "%s\t%d\t%.1f\t%.1f\t%d\t%s", clock(p.From), p.Arrivals, p.MeanDemand, p.MaxDemand,
			p.MaxQueued, short(p.P95))
		for c := range classes {
			fmt.Fprintf(out, "\t%d/%d", p.Ready[c], p.Desired[c])
		}
		fmt.Fprintln(out, "\t")
	}
	out.Flush()
}

// clock formats a time of the trace as h:mm:ss.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	return strings.TrimPrefix(fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60), " ")
}
