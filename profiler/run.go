// Package profiler measures a model server from outside: it sends the requests of a design, reads
// the responses and reports the curves that fit, and how well they fit.
package profiler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/profile"
)

// Objective is the latency that is promised. A limit of 0 means no promise.
type Objective struct{ TTFT, TPOT, E2E time.Duration }

// Options configure a run.
type Options struct {
	Server *Server
	// Time bounds the run.
	Time   time.Duration
	Design profile.Design
	Rounds profile.Rounds
	// Slots is the number of concurrent requests that the server takes, 0 if unknown.
	Slots int
	// Prompt and Output are the tokens of the mean request, which load tests use.
	Prompt, Output int
	Objective      Objective
	// Post, if set, is sent instead of completions. Its path is relative to the server's URL.
	Post *Post
	// Cost is the cost of the server per hour, in any unit. 0 is unknown.
	Cost float64
	// Neighbours are other servers that are kept busy during the run.
	Neighbours []*Server
	Progress   func(Progress)
}

// Post is a request to send unchanged.
type Post struct {
	Path string
	Body []byte
}

// Progress is the progress of a run. Left is an estimate.
type Progress struct {
	Stage string
	Part  float64 // 0 to 1
	Left  time.Duration
}

// shareCurves and shareClosed are the parts of the run's time at which the curves and the closed
// loops end.
const (
	shareCurves = 0.6
	shareClosed = 0.85
)

// runner is the state of a run.
type runner struct {
	Options
	began   time.Time
	report  Report
	form    form
	scale   profile.Scale
	waves   map[profile.Cell][]profile.Wave
	random  *rand.Rand
	salt    uint64
	answers int
}

// Run measures a server until everything is known well enough, the time is up or ctx ends. It
// returns what was measured by then, and an error only if nothing was.
func Run(ctx context.Context, o Options) (*Report, error) {
	r := &runner{Options: o, began: time.Now(), waves: map[profile.Cell][]profile.Wave{}, salt: rand.Uint64()}
	r.random = rand.New(rand.NewPCG(r.salt, 1))
	r.report.Measured, r.report.Objective, r.report.Cost = r.began.UTC().Truncate(time.Second), o.Objective, o.Cost
	r.report.posted = o.Post != nil
	err := r.run(ctx)
	r.report.Interrupted = ctx.Err() != nil
	r.report.Seconds = time.Since(r.began).Seconds()
	r.report.Answers = r.answers
	r.finish()
	if err != nil && !r.report.measured() {
		return &r.report, err
	}
	return &r.report, nil
}

func (r *runner) run(ctx context.Context) error {
	about, err := r.Server.About(ctx)
	if err != nil && r.Post == nil {
		return err
	}
	r.report.About = about
	r.report.busy(about.Engine)
	stop := r.neighbours(ctx)
	defer stop()
	if r.Post != nil {
		return r.load(ctx)
	}
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	if err := r.measureCurves(ctx); err != nil {
		return err
	}
	r.fit()
	return r.load(ctx)
}

// timeUp reports whether the given part of the time is over, or ctx has ended.
func (r *runner) timeUp(ctx context.Context, part float64) bool {
	return ctx.Err() != nil || time.Since(r.began) >= time.Duration(part*float64(r.Time))
}

func (r *runner) progress(stage string, left float64) {
	if r.Progress == nil {
		return
	}
	gone := time.Since(r.began)
	rest := min(time.Duration(left*float64(time.Second)), max(0, r.Time-gone))
	r.Progress(Progress{Stage: stage, Part: float64(gone) / float64(max(gone+rest, 1)), Left: rest})
}

// warmUp determines the request form that the server accepts and how it counts tokens. It also
// makes the server compile and load what it needs.
func (r *runner) warmUp(ctx context.Context) error {
	r.progress("warm-up", r.Time.Seconds())
	if err := r.findForm(ctx); err != nil {
		return fmt.Errorf("%s: %w", r.Server.URL, err)
	}
	var words, tokens [3]int
	for i, n := range []int{32, 96, 256} {
		a, err := r.ask(ctx, r.words(n), 8)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Server.URL, err)
		}
		words[i], tokens[i] = n, a.Prompt
	}
	r.scale = profile.Scale{PerWord: 1.3}
	if tokens[0] >= 0 && tokens[1] >= 0 && tokens[2] >= 0 {
		scale, err := profile.FitScale(words, tokens)
		if err != nil {
			r.report.Faults.add(&Fault{Kind: Inconsistent, Detail: err.Error()})
		} else {
			r.scale = scale
		}
	} else {
		r.report.note("the server reports no usage: prompt tokens are estimated at 1.3 per word")
	}
	for range 2 {
		if _, err := r.wave(ctx,
			profile.Cell{Prompt: 64, Output: 8, Concurrency: min(8, max(r.Slots, 1))}); err != nil {
			return fmt.Errorf("%s: %w", r.Server.URL, err)
		}
	}
	r.answers = 0
	return nil
}

// findForm tries the request forms in order of preference.
func (r *runner) findForm(ctx context.Context) (err error) {
	for _, f := range []form{{false, true}, {true, true}, {false, false}, {true, false}} {
		r.form = f
		_, err = r.ask(ctx, r.words(16), 8)
		var fault *Fault
		refused := errors.As(err, &fault) && (fault.status == 400 || fault.status == 404 || fault.status == 405 ||
			fault.status == 422)
		if !refused {
			return err
		}
	}
	return err
}

// ask sends one completion.
func (r *runner) ask(ctx context.Context, prompt string, output int) (profile.Answer, error) {
	return r.Server.complete(ctx, r.began, r.form, r.report.About.Model, prompt, output)
}

// measureCurves measures the cells of the design round by round. It adds their points to the report
// even after an error.
func (r *runner) measureCurves(ctx context.Context) error {
	cells, left := r.Design.Cells(r.limits())
	r.report.Left = append(r.report.Left, left...)
	givenUp := map[profile.Cell]string{}
	var err error
	for open := true; open && err == nil && !r.timeUp(ctx, shareCurves); {
		open, err = r.pass(ctx, cells, givenUp)
	}
	for _, c := range cells {
		switch ws := r.waves[c]; {
		case len(ws) > 0:
			r.report.Points = append(r.report.Points, profile.PointOf(c, ws))
		case givenUp[c] != "":
			r.report.Left = append(r.report.Left, describe(c)+": "+givenUp[c])
		}
	}
	return err
}

func (r *runner) limits() profile.Limits {
	return profile.Limits{Context: r.report.About.Context, KV: r.report.About.Engine.KVTokens, Slots: r.Slots}
}

// maxFailedCells is the number of failed cells, without any success, after which a run ends.
const maxFailedCells = 3

// pass measures once more each cell that is not known well enough. givenUp holds the reasons for
// the cells that are given up. pass returns whether there may be more to do.
func (r *runner) pass(ctx context.Context, cells []profile.Cell,
	givenUp map[profile.Cell]string) (open bool, err error) {
	for _, c := range cells {
		if givenUp[c] != "" || r.Rounds.Done(len(r.waves[c]), profile.Figures(c, r.waves[c])...) {
			continue
		}
		if r.timeUp(ctx, shareCurves) {
			return false, nil
		}
		if expected := r.expected(c); expected > shareCurves*r.Time.Seconds()-time.Since(r.began).Seconds() {
			givenUp[c] = fmt.Sprintf("a round takes about %s, and too little time is left", span(expected))
			continue
		}
		open = true
		r.progress("curves", r.rest(cells, givenUp)/shareCurves)
		w, err := r.wave(ctx, c)
		switch {
		case ctx.Err() != nil:
			return false, nil
		case err != nil:
			if givenUp[c] = err.Error(); len(givenUp) >= maxFailedCells && len(r.waves) == 0 {
				return false, fmt.Errorf("%s: %w", r.Server.URL, err)
			}
		default:
			r.waves[c] = append(r.waves[c], w)
		}
	}
	return open, nil
}

// expected estimates the duration of a round of a cell in seconds: that of its last round, or a
// scaled one of the largest measured cell. It is 0 if none was measured.
func (r *runner) expected(c profile.Cell) float64 {
	if ws := r.waves[c]; len(ws) > 0 {
		return ws[len(ws)-1].Took
	}
	dearest, took := profile.Cell{}, 0.0
	for other, ws := range r.waves {
		if other.Tokens() > dearest.Tokens() {
			dearest, took = other, ws[len(ws)-1].Took
		}
	}
	if took == 0 {
		return 0
	}
	return took * max(1, float64(c.Tokens())/float64(dearest.Tokens()))
}

// rest estimates the duration of the minimum remaining rounds, in seconds.
func (r *runner) rest(cells []profile.Cell, givenUp map[profile.Cell]string) (seconds float64) {
	for _, c := range cells {
		if givenUp[c] == "" {
			seconds += float64(max(0, r.Rounds.Min-len(r.waves[c]))) * r.expected(c)
		}
	}
	return seconds
}

// fit fits the curves to the measurements.
func (r *runner) fit() {
	c := learned.Curve{Prompt: float64(r.Prompt), Output: float64(r.Output), Slots: float64(r.Slots),
		KV: float64(max(0, r.report.About.Engine.KVTokens)), Samples: float64(r.answers)}
	step, okStep := profile.FitStep(r.report.Points)
	if okStep {
		c.A, c.B, c.C = step.A, step.B, step.C
		r.report.Step = qualityOf(step.Line, step.Of)
	}
	prefill, okPrefill := profile.FitPrefill(r.report.Points, c.StepTime(1, 0))
	if okPrefill {
		c.Start, c.Prefill, c.Growth = prefill.Start, prefill.Prefill, prefill.Growth
		r.report.Prefill = qualityOf(prefill.Line, prefill.Of)
	}
	if okPrefill && okStep {
		r.report.Curve = &c
	}
}
