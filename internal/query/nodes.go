package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/scale"
)

// The metrics of slices and nodes, which come from Nomad.
const (
	// Placed is the number of slices of a class that allocations hold.
	Placed Metric = "placed"
	// Blocked is the number of slices of a class that Nomad cannot place on any node.
	Blocked Metric = "blocked"
	// Free is the number of free slices of a class on eligible nodes.
	Free Metric = "free"
	// Nodes is the number of nodes with GPUs of a class that are needed.
	Nodes Metric = "nodes"
)

var ofSlices = []Metric{Placed, Blocked, Free, Nodes}

// Group is the group of nodes of a query for slices and nodes. The query has its class of GPUs.
type Group struct {
	// Pool, NodeClass and Datacenter of the nodes; "" for any.
	Pool, NodeClass, Datacenter string
	// After are the classes to prefer for work that can use either class.
	After []Earlier
	// Keep is the time for which a node stays needed after its last allocation ended.
	Keep time.Duration
	// Standby is the free capacity to keep in addition to the waiting work.
	Standby Standby
	// GPUs is the number of GPUs of a new node, Slices the number of slices of each; 0 for those of
	// the newest node.
	GPUs, Slices int
}

// Earlier is a class of GPUs with its largest number of nodes, 0 for no limit.
type Earlier struct {
	Class string
	Max   int
}

// Standby is free capacity for replicas.
type Standby struct {
	Replicas int
	// Slices is the number of slices of one replica. Of is the number of slices of their GPU: 1 for
	// whole GPUs, 0 for any.
	Slices, Of int
}

// keep is the default of Group.Keep.
const keep = 5 * time.Minute

// maxNodes limits the numbers in a query.
const maxNodes = 10_000

var (
	ofService = []string{"service", "class", "classes", "utilization", TTFT, TPOT, E2E}
	ofGroup   = []string{"class", "pool", "node_class", "datacenter", "after"}
	ofNodes   = append(slices.Clip(ofGroup), "keep", "standby", "gpus", "slices")
)

// OfSlices reports whether a query is for slices or nodes instead of the demand of a service.
func (q *Query) OfSlices() bool { return slices.Contains(ofSlices, q.Metric) }

// arguments returns the arguments of a metric.
func (m Metric) arguments() []string {
	switch {
	case m == Nodes:
		return ofNodes
	case slices.Contains(ofSlices, m):
		return ofGroup
	}
	return ofService
}

// either joins words with commas and "or".
func either(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// setGroup sets one argument of a query for slices and nodes.
func (q *Query) setGroup(key, value string, at int) (err error) {
	g := &q.Group
	switch key {
	case "class":
		return named(&q.Class, key, value, at)
	case "pool":
		return named(&g.Pool, key, value, at)
	case "node_class":
		return named(&g.NodeClass, key, value, at)
	case "datacenter":
		return named(&g.Datacenter, key, value, at)
	case "after":
		g.After, err = readEarlier(value, at)
	case "keep":
		if g.Keep, err = time.ParseDuration(value); err != nil || g.Keep < 0 || g.Keep > 24*time.Hour {
			return fail(at, fmt.Sprintf("keep is %q: want a duration from 0s to 24h", value))
		}
	case "standby":
		g.Standby, err = readStandby(value, at)
	case "gpus":
		g.GPUs, err = number(key, value, at, maxNodes)
	case "slices":
		g.Slices, err = number(key, value, at, gpu.MaxSlices)
	}
	return err
}

// checkGroup checks the combination of arguments.
func (q *Query) checkGroup(end int) error {
	switch {
	case q.Class == "":
		return fail(end, fmt.Sprintf("class is missing: want for example \"%s class=h100\"", q.Metric))
	case (q.Group.GPUs == 0) != (q.Group.Slices == 0):
		return fail(end,
			"gpus and slices together describe a new node: want both or neither; slices=1 for whole GPUs")
	case slices.ContainsFunc(q.Group.After, func(e Earlier) bool { return e.Class == q.Class }):
		return fail(end, fmt.Sprintf("after names %q, the class of the query itself: want other classes", q.Class))
	}
	return nil
}

func number(key, value string, at, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return 0, fail(at, fmt.Sprintf("%s is %q: want a whole number from 1 to %d", key, value, most))
	}
	return n, nil
}

// readStandby parses a value such as 2x10 for two replicas of 10 slices, or 2x4of1 for two replicas
// of four whole GPUs.
func readStandby(value string, at int) (Standby, error) {
	bad := fail(at, fmt.Sprintf("standby is %q: want the number of replicas and the slices of each, such as 2x10, "+
		"or 2x4of1 for four whole GPUs each", value))
	replicas, each, ok := strings.Cut(value, "x")
	slices, of, cut := strings.Cut(each, "of")
	if !ok || cut && of == "" {
		return Standby{}, bad
	}
	var s Standby
	for _, n := range []struct {
		text string
		to   *int
		most int
	}{{replicas, &s.Replicas, maxNodes}, {slices, &s.Slices, maxNodes}, {of, &s.Of, gpu.MaxSlices}} {
		if n.text == "" && n.to == &s.Of {
			continue
		}
		var err error
		if *n.to, err = number("standby", n.text, at, n.most); err != nil {
			return Standby{}, bad
		}
	}
	return s, nil
}

// readEarlier parses classes, separated by commas, with an optional largest number of nodes:
// "l4 max=4, a100".
func readEarlier(value string, at int) (out []Earlier, err error) {
	for part := range strings.SplitSeq(value, ",") {
		words := strings.Fields(part)
		e := Earlier{}
		if len(words) == 2 {
			bound, ok := strings.CutPrefix(words[1], "max=")
			if !ok {
				words = nil
			} else if e.Max, err = number("max", bound, at, maxNodes); err != nil {
				return nil, err
			}
		}
		if len(words) == 0 || len(words) > 2 || !scale.IsName(words[0]) {
			return nil, fail(at, fmt.Sprintf("after is %q: want classes separated by commas, "+
				"such as 'l4 max=4, a100'", value))
		}
		e.Class = words[0]
		out = append(out, e)
	}
	return out, nil
}
