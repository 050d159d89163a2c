package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"time"
)

// wanted is the target for the gateway's p99 as a share of the best peer's, by load; 1 for other
// loads, and on a busy host.
var wanted = map[float64]float64{0.5: 0.75, 0.7: 0.85}

// judge compares the gateway with its peers and reports for each target whether it is met.
func judge(gateway *entry, peers []*entry, f fleet, busy int) []string {
	var out []string
	say := func(what string, got, limit float64) {
		verdict := "met"
		if got > limit {
			verdict = "MISSED"
		}
		out = append(out, fmt.Sprintf("%s: %.3f, target at most %.2f: %s", what, got, limit, verdict))
	}
	for _, load := range loads {
		p99, mean := best(peers, load)
		s := summarise(gateway.latency[load])
		limit, ok := wanted[load]
		if !ok || busy > 0 {
			limit = 1
		}
		say(fmt.Sprintf("load %.2f: p99 / best peer", load), float64(s.p99)/float64(p99), limit)
		say(fmt.Sprintf("load %.2f: mean / best peer", load), float64(s.mean)/float64(mean), 1)
	}
	most := 0.0
	for _, p := range peers {
		most = max(most, p.largestRate(loads, f).value)
	}
	say("best peer's rate at p99 400 ms / the gateway's", most/gateway.largestRate(loads, f).value, 1)
	return out
}

// best returns the lowest p99 and the lowest mean, which may be of different entries.
func best(entries []*entry, load float64) (p99, mean time.Duration) {
	var p99s, means []time.Duration
	for _, e := range entries {
		s := summarise(e.latency[load])
		p99s, means = append(p99s, s.p99), append(means, s.mean)
	}
	return slices.Min(p99s), slices.Min(means)
}

// rate is a rate in requests per second; bound is "< " or "> " if the value is only a bound.
type rate struct {
	bound string
	value float64
}

func (r rate) String() string { return fmt.Sprintf("%s%.0f", r.bound, r.value) }

// largestRate interpolates the rate at which p99 reaches 400 ms.
func (e *entry) largestRate(loads []float64, f fleet) rate {
	const limit = 400 * time.Millisecond
	for i, load := range loads {
		above := summarise(e.latency[load]).p99
		if above <= limit {
			continue
		}
		if i == 0 {
			return rate{"< ", load * f.capacity()}
		}
		below := summarise(e.latency[loads[i-1]]).p99
		part := float64(limit-below) / float64(above-below)
		return rate{"", (loads[i-1] + part*(load-loads[i-1])) * f.capacity()}
	}
	return rate{"> ", loads[len(loads)-1] * f.capacity()}
}

// versions returns the versions of HAProxy and nginx.
func versions() string {
	number := regexp.MustCompile(`[0-9]+\.[0-9.]+[0-9]`)
	out := ""
	for _, c := range [][]string{{"HAProxy", "haproxy", "-v"}, {"nginx", "nginx", "-v"}} {
		text, _ := exec.Command(c[1], c[2]).CombinedOutput()
		out += fmt.Sprintf("%s %s, ", c[0], number.Find(text))
	}
	return out[:len(out)-2]
}
