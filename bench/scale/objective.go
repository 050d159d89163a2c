package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/scale"
	"aliquot.example/simulate"
)

// hardware is a class whose replicas serve a model of 8 billion parameters with weights in FP8. The
// figures are those of e2e/modelserver/engine, from data sheets. h100 is 5 of 20 slices of one GPU:
// a quarter of its bandwidth, arithmetic and memory.
type hardware struct {
	name  string
	cost  float64
	curve learned.Curve
}

var (
	quarterH100 = hardware{"h100", 2.5, learned.Curve{
		Start: 0.002, Prefill: 144e-6, Growth: 3.3e-5, A: 14.7e-3, B: 20e-6, C: 196e-9, KV: 80_000,
	}}
	wholeL4 = hardware{"l4", 1.5, learned.Curve{
		Start: 0.002, Prefill: 147e-6, Growth: 3.3e-5, A: 37.4e-3, B: 20e-6, C: 546e-9, KV: 85_000,
	}}
)

// service is a trace and its objective.
type service struct {
	name      string
	trace     []simulate.Request
	objective simulate.Objective
}

const (
	quantile   = 0.99
	maxServing = 64 // replicas of each class
)

// readServices reads the traces. It makes Azure's conversations four times as busy, because two
// replicas would serve them as recorded.
func readServices(folder string) ([]service, error) {
	code, err := readTrace(folder, "azure2023_code")
	if err != nil {
		return nil, err
	}
	chat, err := readTrace(folder, "azure2023_conv")
	if err != nil {
		return nil, err
	}
	long, err := readMooncake(folder)
	if err != nil {
		return nil, err
	}
	return []service{
		{"Azure code", code, simulate.Objective{TTFT: 3 * time.Second, TPOT: 100 * time.Millisecond}},
		{"Azure code, the first token alone", code, simulate.Objective{TTFT: 3 * time.Second}},
		{"Azure conversation, 4 times", busier(chat, 4), simulate.Objective{TTFT: 3 * time.Second,
			TPOT: 100 * time.Millisecond}},
		{"Mooncake conversation", long, simulate.Objective{TTFT: 30 * time.Second, TPOT: 200 * time.Millisecond}},
	}, nil
}

// busier returns a trace with every request repeated, at random times within a second after it. The
// demand keeps its shape and is multiplied by times.
func busier(trace []simulate.Request, times int) []simulate.Request {
	random := rand.New(rand.NewPCG(7, 7))
	var out []simulate.Request
	for _, q := range trace {
		for i := range times {
			copied := q
			if i > 0 {
				copied.At += time.Duration(random.Float64() * float64(time.Second))
			}
			out = append(out, copied)
		}
	}
	slices.SortStableFunc(out, func(a, b simulate.Request) int { return int(a.At - b.At) })
	return out
}

// known returns the curve of a class as gateways would have learned it, with the mean request of a
// trace.
func (h hardware) known(trace []simulate.Request) learned.Curve {
	c := h.curve
	for _, q := range trace {
		c.Prompt += float64(q.InputTokens) / float64(len(trace))
		c.Output += float64(q.OutputTokens) / float64(len(trace))
	}
	return c
}

// within returns how many concurrent requests of mean length a replica serves within the objective,
// and their rate per second. The other policies take their targets from these figures. Aliquot's
// policy does not use them: it plans for the quantile.
func (s service) within(h hardware) (n, rate float64) {
	return h.known(s.trace).MaxConcurrency(
		learned.Objective{TTFT: s.objective.TTFT.Seconds(), TPOT: s.objective.TPOT.Seconds()})
}

// rival is one policy and the hardware that it may use.
type rival struct {
	name   string
	on     []hardware
	scaler func() simulate.Scaler
	// proxied means that a proxy is in front of the replicas, and not Aliquot's gateway.
	proxied bool
}

// proxied returns the policies with a proxy in front of the replicas.
func proxied(all []rival) (out []rival) {
	for _, r := range all {
		r.name, r.proxied = r.name+", proxy", true
		out = append(out, r)
	}
	return out
}

// rivals returns the policies to compare on some hardware. On one class, those of others also run
// behind a proxy, as they do without Aliquot.
func (s service) rivals(on []hardware, coldStart time.Duration) []rival {
	var others []rival
	for _, h := range on {
		others = append(others, s.alone(h, len(on) > 1)...)
		if len(on) > 1 {
			others = append(others, rival{name: "Aliquot, " + h.name + " alone", on: []hardware{h},
				scaler: s.ours([]hardware{h}, coldStart)})
		}
	}
	costs := make([]float64, len(on))
	for i, h := range on {
		costs[i] = h.cost
	}
	others = append(others, rival{name: "llm-d variant autoscaler", on: on, scaler: func() simulate.Scaler {
		return &variants{costs: costs, max: maxServing}
	}})
	if len(on) == 1 {
		others = append(others, proxied(others)...)
	}
	return append(others, rival{name: "Aliquot", on: on, scaler: s.ours(on, coldStart)})
}

// alone returns the policies that know one class of hardware. named adds its name to theirs.
func (s service) alone(h hardware, named bool) (out []rival) {
	n, _ := s.within(h)
	target := utilization * n
	add := func(policy string, scaler func() simulate.Scaler) {
		if named {
			policy += ", " + h.name + " alone"
		}
		out = append(out, rival{name: policy, on: []hardware{h}, scaler: scaler})
	}
	add("KPA + 300 s down-delay", func() simulate.Scaler {
		return &kpa{target: target, max: maxServing, downDelay: 300 * time.Second}
	})
	add("Nomad target-value", func() simulate.Scaler {
		return &nomadTarget{target: target, max: maxServing, cooldown: 5 * time.Minute}
	})
	add("AIBrix APA", func() simulate.Scaler { return &apa{max: maxServing} })
	return out
}

// ours returns the policy with the objective, at an interval of 1 s and with a query window of 15
// minutes.
func (s service) ours(on []hardware, coldStart time.Duration) func() simulate.Scaler {
	policy := scale.Default()
	policy.ColdStart = coldStart
	var classes []scale.Class
	var curves []learned.Curve
	for _, h := range on {
		classes = append(classes, scale.Class{Name: h.name, Slots: 1, Cost: h.cost, Max: maxServing, Speed: 1})
		curves = append(curves, h.known(s.trace))
	}
	objective := scale.Objective{TTFT: s.objective.TTFT, TPOT: s.objective.TPOT, E2E: s.objective.E2E,
		Quantile: quantile}
	return func() simulate.Scaler {
		return &simulate.PolicyScaler{
			Policy: policy, Classes: classes, QueryWindow: 15 * time.Minute, Every: time.Second,
			Objective: &objective, Curves: curves,
		}
	}
}

// outcome is the result of a replay.
type outcome struct {
	attained, cost float64
	hours          []float64
	reversals      int
}

func (s service) replay(r rival, coldStart time.Duration) outcome {
	var classes []simulate.Class
	for i, h := range r.on {
		curve := h.curve
		c := simulate.Class{Name: h.name, Cost: h.cost, ColdStart: coldStart, Curve: &curve, Speed: 1, Slots: 1}
		if i == 0 {
			c.Initial = s.initial(h)
		}
		classes = append(classes, c)
	}
	config := simulate.Config{Classes: classes, Objective: s.objective, LeastRequests: r.proxied}
	result := simulate.Run(config, s.trace, r.scaler())
	summary := simulate.Summarize(result, classes)
	return outcome{result.Attained(s.trace, s.objective), summary.Cost, summary.ReplicaHours, summary.Reversals}
}

// replays replays the trace with each policy, as many at a time as there are CPUs.
func (s service) replays(all []rival, coldStart time.Duration) []outcome {
	out := make([]outcome, len(all))
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i, r := range all {
		group.Go(func() error {
			out[i] = s.replay(r, coldStart)
			return nil
		})
	}
	_ = group.Wait() // no replay returns an error
	return out
}

// initial returns the replicas for the trace's mean demand at 70% of a replica's rate within the
// objective.
func (s service) initial(h hardware) int {
	_, rate := s.within(h)
	mean := float64(len(s.trace)) / s.trace[len(s.trace)-1].At.Seconds()
	return max(1, int(math.Ceil(mean/(rate*utilization))))
}

// objective prints how much of each objective is attained, and at what cost.
func objective(w io.Writer, folder string) error {
	services, err := readServices(folder)
	if os.IsNotExist(err) {
		fmt.Fprintf(w, "skipped the objectives: %v\n", err)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(w, `Objectives of %g%% of the requests. A model of 8 billion parameters with weights in FP8; h100 is
5 of 20 slices of one at cost %g an hour, l4 a whole one at %g, at most %d of either. Replicas batch,
and Aliquot's gateway is in front of them. With "proxy" a proxy is there instead, which sends each
request at once to the replica with the fewest requests.

`, 100*quantile, quarterH100.cost, wholeL4.cost, maxServing)
	for _, s := range services {
		for _, coldStart := range coldStarts {
			s.table(w, []hardware{quarterH100}, coldStart)
			s.table(w, []hardware{quarterH100, wholeL4}, coldStart)
		}
	}
	return nil
}

func (s service) table(w io.Writer, on []hardware, coldStart time.Duration) {
	o := s.objective
	names := make([]string, len(on))
	for i, h := range on {
		n, rate := s.within(h)
		names[i] = fmt.Sprintf("%s serves %.0f mean requests at once, %.2f a second", h.name, n, rate)
	}
	fmt.Fprintf(w, "%s, cold start %s, %s; %s\n", s.name, coldStart,
		scale.Objective{TTFT: o.TTFT, TPOT: o.TPOT, E2E: o.E2E, Quantile: quantile}, strings.Join(names, ", "))
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "policy\twithin\tcost\treplica-hours\treversals\t")
	all := s.rivals(on, coldStart)
	for i, o := range s.replays(all, coldStart) {
		r := all[i]
		fmt.Fprintf(out, "%s\t%.2f%%\t%.1f\t%.1f\t%d\t\n", r.name, 100*o.attained, o.cost, o.hours, o.reversals)
	}
	out.Flush()
	fmt.Fprintln(w)
}
