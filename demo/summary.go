package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"aliquot.example/internal/top"
)

// summary is the outcome of the replay.
type summary struct {
	calls   int
	results []result
	watch   *watch
	began   time.Time
	// toZero is the time from the last answer until the last replica was gone, or negative if one
	// remained.
	toZero time.Duration
	// served is how many of the replay's requests the gateway counted as served; others is how many
	// requests of other clients it served.
	served, others int
	image          string
	starts         []coldStart // from zero
}

// quantile returns the q-quantile of sorted values: the value at index q*len(sorted), rounded down.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (s *summary) lost() []result {
	return slices.DeleteFunc(slices.Clone(s.results), func(r result) bool { return r.problem == "" })
}

func (s *summary) of(service string) []result {
	return slices.DeleteFunc(slices.Clone(s.results), func(r result) bool {
		return r.service != service || r.problem != ""
	})
}

func (s *summary) print(w io.Writer) {
	fmt.Fprintf(w, "\nRequests  %d, %d answered whole, %d lost; the gateway served %d", s.calls,
		len(s.results)-len(s.lost()), len(s.lost()), s.served)
	if s.others > 0 {
		fmt.Fprintf(w, " of them and %d others", s.others)
	}
	fmt.Fprint(w, "\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\t\tFIRST BYTE\tFIRST BYTE\t\t\tWHOLE ANSWER")
	fmt.Fprintln(t, "SERVICE\tREQUESTS\tFROM ZERO\tP50\tP95\tP99\tP50\tP95\tP99")
	for _, service := range []string{chat, code} {
		results := s.of(service)
		var firsts, wholes []time.Duration
		for _, r := range results {
			firsts, wholes = append(firsts, r.first-r.at), append(wholes, r.end-r.at)
		}
		slices.Sort(firsts)
		slices.Sort(wholes)
		fmt.Fprintf(t, "%s\t%d\t%s", service, len(results), seconds(toFirst(results)))
		for _, values := range [][]time.Duration{firsts, wholes} {
			for _, q := range []float64{0.5, 0.95, 0.99} {
				fmt.Fprintf(t, "\t%s", seconds(quantile(values, q)))
			}
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	printStarts(w, s.starts)
	fmt.Fprintln(w)
	s.printShares(w)
	fmt.Fprintln(w)
	s.printGPUs(w)
	fmt.Fprintln(w)
	s.printReplicas(w)
	fmt.Fprintln(w)
	s.printActions(w)
}

// first returns the first request of a service.
func first(results []result) (result, bool) {
	if len(results) == 0 {
		return result{}, false
	}
	return slices.MinFunc(results, func(a, b result) int { return int(a.at - b.at) }), true
}

// toFirst returns the time from the first request of a service to the first byte of its answer.
func toFirst(results []result) time.Duration {
	r, _ := first(results)
	return r.first - r.at
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// printShares compares the share of each class according to the splitters, at the times at which
// requests were served, with the share that the class served.
func (s *summary) printShares(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tCLASS\tMOST REPLICAS\tROUTED BY CONSUL\tSERVED BY THE GATEWAY")
	for _, service := range []string{chat, code} {
		routed, served := s.shares(service)
		for _, class := range slices.Sorted(maps.Keys(s.watch.most[service])) {
			fmt.Fprintf(t, "%s\t%s\t%d\t%.1f%%\t%.1f%%\n", service, class, s.watch.most[service][class], routed[class],
				served[class])
		}
	}
	_ = t.Flush()
}

// shares returns percentages of a service's requests, by class.
func (s *summary) shares(service string) (routed, served map[string]float64) {
	routed, served = map[string]float64{}, map[string]float64{}
	results := s.of(service)
	for _, r := range results {
		part := 100 / float64(len(results))
		served[r.class] += part
		for class, percent := range s.watch.sharesAt(service, s.began.Add(r.first)).classes() {
			routed[class] += part * percent / 100
		}
	}
	return routed, served
}

// printGPUs prints every GPU at the time when most of its slices were allocated.
func (s *summary) printGPUs(w io.Writer) {
	fmt.Fprintln(w, "Slices, when most were held")
	var gpus []top.GPU
	for _, group := range slices.Sorted(maps.Keys(s.watch.busiest)) {
		gpus = append(gpus, s.watch.busiest[group])
	}
	drawGPUs(w, gpus)
}

func (s *summary) printActions(w io.Writer) {
	counts := map[string]int{}
	for _, a := range s.watch.actions {
		counts[a.job+"/"+a.group]++
	}
	var parts []string
	for _, group := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", group, counts[group]))
	}
	fmt.Fprintf(w, "Scaling  %d actions (%s)", len(s.watch.actions), strings.Join(parts, ", "))
	if s.toZero >= 0 {
		fmt.Fprintf(w, "; back at zero %s after the last answer", seconds(s.toZero))
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range s.watch.actions {
		fmt.Fprintf(t, "  %s\t%s/%s\t%d -> %d\t%s\n", clock(a.at.Sub(s.began)), a.job, a.group, a.from, a.to, a.reason)
	}
	_ = t.Flush()
}
