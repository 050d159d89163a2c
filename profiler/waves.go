package profiler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"aliquot.example/internal/profile"
)

// vocabulary holds words that are one token in most tokenizers.
var vocabulary = strings.Fields(`the of and to in is that for was on are as with they be at one have this from by hot
	word but what some we can out other were all there when up use your how said an each she which do their time if
	will way about many then them write would like so these her long make thing see him two has look more day could go
	come did number sound no most people my over know water than call first who may down side been now find`)

var salts atomic.Uint64

// words returns a prompt of n random words, so that a prefix cache of the server cannot help.
func (r *runner) words(n int) string {
	random := rand.New(rand.NewPCG(r.salt, salts.Add(1)))
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(vocabulary[random.IntN(len(vocabulary))])
	}
	return b.String()
}

// wave sends the requests of a cell at the same moment.
func (r *runner) wave(ctx context.Context, c profile.Cell) (profile.Wave, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers, errs := make([]profile.Answer, c.Concurrency), make([]error, c.Concurrency)
	prompts := make([]string, c.Concurrency)
	for i := range prompts {
		prompts[i] = r.words(r.scale.Words(c.Prompt))
	}
	var done sync.WaitGroup
	for i := range answers {
		done.Go(func() {
			if answers[i], errs[i] = r.ask(ctx, prompts[i], c.Output); errs[i] != nil {
				cancel() // a wave without one request is worthless
			}
		})
	}
	done.Wait()
	if err := r.tooLarge(c, errs); err != nil {
		return profile.Wave{}, err
	}
	if err := r.judge(answers, errs); err != nil {
		return profile.Wave{}, err
	}
	for i := range answers {
		if answers[i].Prompt < 0 { // the server reports no usage
			answers[i].Prompt = c.Prompt
		}
	}
	return profile.WaveOf(answers), nil
}

// tooLarge returns an error if the server declined the prompts of a cell for their length: it
// answered shorter ones, none as long, and has no other fault in this wave. This is a limit of the
// server, not a fault.
func (r *runner) tooLarge(c profile.Cell, errs []error) (limit error) {
	shorter := false
	for other := range r.waves {
		if other.Prompt >= c.Prompt {
			return nil
		}
		shorter = true
	}
	for _, err := range errs {
		var fault *Fault
		switch {
		case err == nil, errors.Is(err, context.Canceled):
		case shorter && errors.As(err, &fault) && declines(fault.status):
			limit = fmt.Errorf("the server refuses it: %s", fault.Detail)
		default:
			return nil
		}
	}
	return limit
}

// declines reports whether a status is one of those for a request that is too long.
func declines(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge ||
		status == http.StatusUnprocessableEntity
}

// judge counts responses and records their faults. It returns an error that makes the round
// worthless, or nil.
func (r *runner) judge(answers []profile.Answer, errs []error) (worst error) {
	for i := range answers {
		if err := errs[i]; err != nil {
			if errors.Is(err, context.Canceled) {
				if worst == nil {
					worst = err
				}
				continue
			}
			r.report.Faults.add(err)
			worst = err
			continue
		}
		r.answers++
		a := &answers[i]
		if problem := a.UsageProblem(); problem != "" {
			r.report.Faults.add(&Fault{Kind: Inconsistent, Detail: problem})
		}
		switch {
		case a.Cached > a.Prompt/4 && a.Cached > 64:
			r.report.note("the server reports cached tokens for prompts that it has not seen before: " +
				"prompts may be measured too fast")
		case a.Reason == "stop" && a.Made() < a.Asked:
			r.report.note("responses end before their limit, because the server ignores ignore_eos: " +
				"fewer responses are used to measure steps")
		}
	}
	return worst
}

// describe returns a cell in words.
func describe(c profile.Cell) string {
	return fmt.Sprintf("%d at once with %d tokens", c.Concurrency, c.Prompt)
}
