package profiler

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/profile"
)

// Report is the result of a run.
type Report struct {
	Measured    time.Time       `json:"measured"`
	Seconds     float64         `json:"seconds"`
	Interrupted bool            `json:"interrupted,omitempty"`
	About       About           `json:"server"`
	Objective   Objective       `json:"objective"`
	Cost        float64         `json:"cost_per_hour,omitempty"`
	Answers     int             `json:"answers"`
	Points      []profile.Point `json:"points,omitempty"`
	// Curve is the curve that fits the points, with the mean request of the options. It is nil if
	// too little was measured.
	Curve   *learned.Curve `json:"curve,omitempty"`
	Prefill *Quality       `json:"reading,omitempty"`
	Step    *Quality       `json:"stepping,omitempty"`
	Closed  []Load         `json:"closed,omitempty"`
	Open    []Load         `json:"open,omitempty"`
	// Best is the server's capacity within the objective.
	Best *Best `json:"within_objective,omitempty"`
	// Faults lists the server's faults, and Left what was not measured and why.
	Faults faults   `json:"faults,omitempty"`
	Left   []string `json:"left_out,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	// Changed describes what has changed since the last profile of the same kind of replica. Slower
	// means that something became worse.
	Changed string `json:"changed,omitempty"`
	Slower  bool   `json:"slower,omitempty"`

	posted bool // the run sent a given request, so there is no curve
}

// Quality is how well a curve fits. Residuals are relative to the curve.
type Quality struct {
	Errors []float64 `json:"standard_errors"`
	Mean   float64   `json:"mean_residual"`
	Worst  float64   `json:"worst_residual"`
	At     string    `json:"worst_at"`
	Points int       `json:"points"`
}

// poorMean and poorWorst are the residuals from which a curve does not describe the measurements
// well.
const (
	poorMean  = 0.05
	poorWorst = 0.15
)

// Poor reports whether the curve does not describe the measurements well.
func (q *Quality) Poor() bool {
	return q.Mean > poorMean || q.Worst > poorWorst || -q.Worst > poorWorst
}

func qualityOf(l profile.Line, of []profile.Point) *Quality {
	q := &Quality{Errors: l.Errors, Mean: l.Mean(), Points: len(of)}
	if at := l.Worst(); at >= 0 {
		q.Worst, q.At = l.Off[at], describe(of[at].Cell)
	}
	return q
}

// Best is the capacity of a server within an objective: by its curves, or by the closed loop if
// there are no curves.
type Best struct {
	Concurrency float64 `json:"concurrency"`
	Rate        float64 `json:"rate_per_s"`
	Tokens      float64 `json:"tokens_per_s"` // of answers
	// PerCost is the tokens of prompts and responses per unit of cost, 0 if no cost is known.
	PerCost  float64 `json:"tokens_per_cost,omitempty"`
	Measured bool    `json:"measured"`
}

// most returns the largest number of concurrent mean requests within the objective, and their rate
// per second.
func (o Objective) most(c learned.Curve) (n, rate float64) {
	n, _ = c.MaxConcurrency(learned.Objective{TTFT: o.TTFT.Seconds(), TPOT: o.TPOT.Seconds()})
	if o.E2E > 0 {
		n = float64(sort.Search(int(n), func(i int) bool {
			_, first, token := c.At(float64(i + 1))
			return first+c.Output*token > o.E2E.Seconds()
		}))
	}
	if n == 0 {
		return 0, 0
	}
	rate, _, _ = c.At(n)
	return n, rate
}

// MarshalJSON writes the objective in seconds.
func (o Objective) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]float64{"ttft_s": o.TTFT.Seconds(), "tpot_s": o.TPOT.Seconds(),
		"e2e_s": o.E2E.Seconds()})
}

// UnmarshalJSON reads the format of MarshalJSON.
func (o *Objective) UnmarshalJSON(text []byte) error {
	var s struct {
		TTFT float64 `json:"ttft_s"`
		TPOT float64 `json:"tpot_s"`
		E2E  float64 `json:"e2e_s"`
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	for _, of := range []struct {
		to *time.Duration
		s  float64
	}{{&o.TTFT, s.TTFT}, {&o.TPOT, s.TPOT}, {&o.E2E, s.E2E}} {
		if !(of.s >= 0 && of.s <= 1e6) {
			return fmt.Errorf("invalid objective of %g seconds: want 0 to 1e6", of.s)
		}
		*of.to = time.Duration(math.Round(of.s * float64(time.Second)))
	}
	return nil
}

// maxReport bounds the size of a report, in bytes.
const maxReport = 16 << 20

// ReadReport reads the JSON report of a language model. It drops the points and loads, because a
// Profile does not need them.
func ReadReport(from io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(io.LimitReader(from, maxReport)).Decode(&r); err != nil {
		return nil, fmt.Errorf("not a report of aliquot bench -json: %w", err)
	}
	r.Points, r.Closed, r.Open = nil, nil, nil
	if r.Curve != nil && (r.Prefill == nil || r.Step == nil) {
		return nil, fmt.Errorf("not a complete report of aliquot bench -json: it does not say how well its curves fit")
	}
	return &r, nil
}

func (r *Report) note(text string) {
	if !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}

// busy adds a note if other clients use the server.
func (r *Report) busy(e Engine) {
	if e.Running > 0 || e.Waiting > 0 {
		r.note(fmt.Sprintf("the server was not idle: %d requests ran and %d waited; "+
			"their load is included in all results", e.Running, max(0, e.Waiting)))
	}
}

func (r *Report) measured() bool { return len(r.Points) > 0 || len(r.Closed) > 0 }

// Believed returns an error if the figures are too unreliable for a profile.
func (r *Report) Believed() error {
	switch {
	case r.Curve == nil && r.posted && r.Best != nil && r.Best.Rate > 0 && !r.Faults.has(Inconsistent):
		return nil
	case r.Curve == nil:
		return fmt.Errorf("no curve was found: too little was measured")
	case r.Faults.has(Inconsistent):
		return fmt.Errorf("the server reported impossible token counts")
	case r.Prefill.Poor() || r.Step.Poor():
		return fmt.Errorf("the curves do not fit what was measured")
	}
	return nil
}

// finish computes the summary of a run.
func (r *runner) finish() {
	p := &r.report
	b := &Best{}
	if p.Curve != nil {
		b.Concurrency, b.Rate = r.Objective.most(*p.Curve)
		b.Tokens = b.Rate * p.Curve.Output
	} else {
		for i := range p.Closed {
			if l := &p.Closed[i]; l.Within >= 0.99 && l.Rate.Value > b.Rate {
				*b = Best{Concurrency: float64(l.Concurrency), Rate: l.Rate.Value, Tokens: l.Tokens(), Measured: true}
			}
		}
	}
	if p.Cost > 0 {
		tokens := b.Tokens
		if p.Curve != nil {
			tokens += b.Rate * p.Curve.Prompt
		}
		b.PerCost = tokens * 3600 / p.Cost
	}
	if p.measured() {
		p.Best = b
	}
	for _, q := range []*Quality{p.Prefill, p.Step} {
		if q != nil && q.Poor() {
			p.note(fmt.Sprintf("a curve does not fit: its mean error is %.0f%%, its worst %+.0f%% with %s",
				100*q.Mean, 100*q.Worst, q.At))
		}
	}
}

// perNeighbour is the number of concurrent requests to each neighbour.
const perNeighbour = 8

// neighbours keeps the neighbours busy until the returned function is called.
func (r *runner) neighbours(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	served := make([]atomic.Int64, len(r.Neighbours))
	for i, n := range r.Neighbours {
		for range perNeighbour {
			all.Go(func() {
				about, err := n.About(ctx)
				for err == nil && ctx.Err() == nil {
					if _, err = n.complete(ctx, r.began, form{}, about.Model, r.words(max(1, r.Prompt*3/4)),
						max(1, r.Output)); err == nil {
						served[i].Add(1)
					}
				}
			})
		}
	}
	return func() {
		cancel()
		all.Wait()
		for i := range served {
			r.report.note(fmt.Sprintf("the neighbour %s served %d responses during the benchmark", r.Neighbours[i].URL,
				served[i].Load()))
		}
	}
}
