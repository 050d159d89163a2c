package learned

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Curve is the speed of an engine that batches, for one model on one kind of hardware, and the load
// under which it was measured. Times are in seconds.
type Curve struct {
	// Reading a prompt (prefill) takes Start, and Prefill for each of its tokens, increased by the
	// factor Growth for every token before it.
	Start   float64 `json:"start,omitempty"`
	Prefill float64 `json:"prefill"`
	Growth  float64 `json:"growth,omitempty"`
	// A step takes A + B n + C kv, with n requests in flight and kv tokens in their caches.
	A float64 `json:"a"`
	B float64 `json:"b"`
	C float64 `json:"c"`

	// Prompt and Output are the mean tokens of a prompt and of an answer; 0 if unknown.
	Prompt float64 `json:"prompt,omitempty"`
	Output float64 `json:"output,omitempty"`
	// KV is the number of tokens in the cache of a replica, and Slots the number of requests that
	// it serves at once; 0 if unknown or unlimited.
	KV    float64 `json:"kv_tokens,omitempty"`
	Slots float64 `json:"slots,omitempty"`
	// Rate is the maximum requests per second of a replica within the objective of the service; 0
	// if unknown.
	Rate float64 `json:"rate,omitempty"`

	Samples float64 `json:"n"`
}

// Objective is the objective for streamed answers, in seconds; 0 means none.
type Objective struct {
	TTFT float64 `json:"ttft_s,omitempty"` // from the request to the first token
	TPOT float64 `json:"tpot_s,omitempty"` // between two tokens
	E2E  float64 `json:"e2e_s,omitempty"`  // from the request to the last token
}

// String formats the objective as users write it: "ttft=2s tpot=100ms".
func (o Objective) String() string {
	var words []string
	for _, of := range []struct {
		name    string
		seconds float64
	}{{"ttft", o.TTFT}, {"tpot", o.TPOT}, {"e2e", o.E2E}} {
		if of.seconds > 0 {
			words = append(words, of.name+"="+time.Duration(math.Round(of.seconds*1e9)).String())
		}
	}
	if len(words) == 0 {
		return "no objective"
	}
	return strings.Join(words, " ")
}

const (
	// batch limits what a replica serves at once if nothing else does. It is the default
	// of the engines.
	batch = 256
	// maxPrefillShare limits the fraction of its time that a replica can read prompts while answers still
	// progress.
	maxPrefillShare = 0.95
)

// SlicesOf returns the key of a curve in Class.Tokens: the slices that a replica has of how many of
// one GPU, such as "6of20", or its number of whole GPUs, such as "1of1".
func SlicesOf(slices, total int) string {
	return fmt.Sprintf("%dof%d", max(slices, 1), max(total, 1))
}

// ParseSlices parses such a key.
func ParseSlices(key string) (slices, total int, ok bool) {
	have, of, ok := strings.Cut(key, "of")
	if !ok {
		return 0, 0, false
	}
	slices, err := strconv.Atoi(have)
	if err != nil || slices < 1 {
		return 0, 0, false
	}
	total, err = strconv.Atoi(of)
	return slices, total, err == nil && total >= 1
}

// Speed returns the maximum tokens per second that a replica reads and writes within the objective
// of the service; 0 if unknown.
func (c Curve) Speed() float64 { return c.Rate * (c.Prompt + c.Output) }

// Held returns the number of tokens that a mean request has in the cache, averaged over the time
// that it is served.
func (c Curve) Held() float64 { return max(1, c.Prompt) + c.Output/2 }

// PrefillTime returns the seconds to read a prompt.
func (c Curve) PrefillTime(tokens float64) float64 {
	return c.Start + c.Prefill*tokens*(1+c.Growth*tokens/2)
}

// StepTime returns the seconds of a step with n requests and kv tokens in their caches.
func (c Curve) StepTime(n, kv float64) float64 { return c.A + c.B*n + c.C*kv }

// MaxConcurrency returns the largest number of mean requests that a replica serves at once within
// the objective, and how many per second it then serves. Both are 0 if it misses the objective with
// one. The number times Held is the largest number of tokens in flight.
//
// With n requests at once, each of Output tokens and with work seconds of prefill, a replica serves
// rate = n/(Output*step + n*work) a second, because prefill delays the steps of all, and
// takes the fraction rate*work of its time. A token then takes step/(1-share), and a first token
// work/(1-share), on average: the caller leaves room for the requests that are slower.
func (c Curve) MaxConcurrency(o Objective) (n, rate float64) {
	bound := c.bound()
	n = float64(sort.Search(int(bound), func(i int) bool { return !c.meets(o, float64(i+1)) }))
	if n == 0 {
		return 0, 0
	}
	rate, _, _ = c.At(n)
	return n, rate
}

// bound returns how many requests fit into a replica.
func (c Curve) bound() float64 {
	most := float64(batch)
	if c.Slots > 0 {
		most = c.Slots
	}
	if c.KV > 0 {
		most = min(most, c.KV/(max(1, c.Prompt)+c.Output))
	}
	return min(max(1, most), 1e6)
}

// Limit is the load that a replica can take within an objective. Times are in seconds.
type Limit struct {
	// Concurrency is the number of mean requests that it serves at once, or 0 if it misses the objective
	// with one. Rate is how many per second it then serves. If Concurrency is 0, Rate is half of its
	// maximum.
	Concurrency, Rate float64
	// First and Token are the mean times to the first token and between tokens with Concurrency requests,
	// or with one if Concurrency is 0.
	First, Token float64
	// Slack is how long a mean answer may be delayed between its tokens, 0 for any time.
	Slack float64
}

// Within returns the load at which a fraction of the requests, the quantile, meets the objective.
// MaxConcurrency considers only the mean request.
func (c Curve) Within(o Objective, quantile float64) Limit {
	l := Limit{Concurrency: float64(sort.Search(int(c.bound()), func(i int) bool {
		return !c.holds(o, quantile, float64(i+1))
	}))}
	if l.Concurrency > 0 {
		l.Rate, _, _ = c.At(l.Concurrency)
	} else {
		_, most := c.MaxConcurrency(Objective{})
		l.Rate = most / 2
	}
	n := max(1, l.Concurrency)
	_, l.First, l.Token = c.At(n)
	if o.TPOT > 0 {
		l.Slack = max(0, (c.Output-1)*(o.TPOT-c.StepTime(n, n*c.Held())))
	}
	return l
}

// deferral multiplies the standard deviation of the delays in holds if there is an objective for the
// first token. Up to that, the gateway defers a prompt that would make answers late, or sends it
// elsewhere, so delays vary less than arrivals do. The value comes from replays through its dispatch
// (bench/scale).
const deferral = 0.6

// spread is the mean square of the times to read a prompt divided by the square of their mean, for
// exponentially distributed times.
const spread = 2

// holds reports whether the given fraction of answers meets the time between tokens among n
// requests: prompts of the n-1 others arrive at random while an answer lasts as long as it may, and
// each delays the answer by its prefill. The sum of the delays is approximately normal.
func (c Curve) holds(o Objective, quantile, n float64) bool {
	if !c.meets(o, n) {
		return false
	}
	if o.TPOT <= 0 {
		return true
	}
	rate, _, _ := c.At(n)
	gaps := max(1, c.Output-1)
	reads := rate * (n - 1) / n * gaps * o.TPOT
	deviations := math.Sqrt2 * math.Erfinv(2*quantile-1)
	if o.TTFT > 0 {
		deviations *= deferral
	}
	stalls := c.PrefillTime(max(1, c.Prompt)) * (reads + deviations*math.Sqrt(spread*reads))
	return stalls <= gaps*(o.TPOT-c.StepTime(n, n*c.Held()))
}

func (c Curve) meets(o Objective, n float64) bool {
	_, first, token := c.At(n)
	within := func(took, limit float64) bool { return limit <= 0 || took <= limit }
	return within(first, o.TTFT) && within(token, o.TPOT) && within(first+token*max(0, c.Output-1), o.E2E)
}

// At returns what n requests at once get: how many are served per second, and the mean times to the
// first token and between tokens.
func (c Curve) At(n float64) (rate, first, token float64) {
	work := c.PrefillTime(max(1, c.Prompt))
	step := c.StepTime(n, n*c.Held())
	rate = n / max(max(1, c.Output)*step+n*work, 1e-9)
	free := max(1-rate*work, 1-maxPrefillShare)
	return rate, work / free, step / free
}

// figures returns all numbers of a curve.
func (c *Curve) figures() []*float64 {
	return []*float64{&c.Start, &c.Prefill, &c.Growth, &c.A, &c.B, &c.C, &c.Prompt, &c.Output, &c.KV, &c.Slots, &c.Rate,
		&c.Samples}
}

// times is how many of the figures are times. A time may be 0, because a curve may have no slope; 0
// in the other figures means unknown.
const times = 6

// Possible reports whether all figures of a curve are in a plausible range.
func (c Curve) Possible() bool {
	for _, f := range c.figures() {
		if !(*f >= 0 && *f <= 1e15) {
			return false
		}
	}
	return true
}

// curves accumulates the mean of several curves.
type curves struct {
	means   [times + 5]mean
	samples float64
}

func (s *curves) add(c Curve, weight float64) {
	for i, f := range c.figures()[:len(s.means)] {
		if i >= times && *f == 0 {
			continue
		}
		s.means[i].total += *f * weight
		s.means[i].weight += weight
	}
	s.samples += weight
}

func (s *curves) merged() Curve {
	c := Curve{Samples: s.samples}
	for i, f := range c.figures()[:len(s.means)] {
		*f = s.means[i].value()
	}
	return c
}
