// Command scale replays production traces against Aliquot's scaling policy and the published
// algorithms of other autoscalers, in simulated time. It prints how long users would have waited
// and what the replicas would have cost.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"aliquot.example/simulate"
)

func main() {
	traces := flag.String("traces", "../shared/data/traces", "folder of azure2023_code.csv and azure2023_conv.csv")
	only := flag.String("only", "", "one of the two parts, demand or objective; both if empty")
	flag.Parse()
	if err := run(os.Stdout, *traces, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench/scale:", err)
		os.Exit(1)
	}
}

// run prints both parts, or the one that only names.
func run(w io.Writer, folder, only string) error {
	if only != "objective" {
		if err := demand(w, folder); err != nil {
			return err
		}
	}
	if only != "demand" {
		return objective(w, folder)
	}
	return nil
}

// demand prints the results of counts that follow demand.
func demand(w io.Writer, folder string) error {
	fmt.Fprintf(w, `One class, %d slots per replica, at most %d replicas; service 0.1 ms per input token
and 20 ms per output token; one queue, first come first served. Every policy starts
with the replicas that the mean demand of the trace needs at 70%% utilisation.

`, slots, maxReplicas)
	rampTable(w)
	for _, name := range traceNames {
		trace, err := readTrace(folder, name)
		if os.IsNotExist(err) {
			fmt.Fprintf(w, "skipped %s: not found in %s\n", name, folder)
			continue
		}
		if err != nil {
			return err
		}
		for _, coldStart := range coldStarts {
			table(w, name, trace, coldStart)
		}
		for _, speed := range fleetSpeeds {
			fleetTable(w, name, trace, speed)
		}
	}
	return nil
}

var (
	traceNames = []string{"azure2023_code", "azure2023_conv"}
	coldStarts = []time.Duration{30 * time.Second, 90 * time.Second, 300 * time.Second}
)

func readTrace(folder, name string) ([]simulate.Request, error) {
	file, err := os.Open(filepath.Join(folder, name+".csv"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return simulate.ReadTrace(file, simulate.DefaultServiceModel())
}

func table(w io.Writer, name string, trace []simulate.Request, coldStart time.Duration) {
	fmt.Fprintf(w, "%s, cold start %s, %d replicas at the start\n", name, coldStart, initial(trace))
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "policy\twait > 10 s\t> 1 s\tp95 wait s\tp99 wait s\treplica-hours\treversals\t")
	for _, c := range contenders(coldStart) {
		s := c.replay(trace, coldStart)
		fmt.Fprintf(out, "%s\t%.2f%%\t%.1f%%\t%.1f\t%.1f\t%.1f\t%d\t\n", c.name, 100*s.Over10, 100*s.Over1,
			s.P95.Seconds(), s.P99.Seconds(), s.TotalHours(), s.Reversals)
	}
	out.Flush()
	fmt.Fprintln(w)
}
