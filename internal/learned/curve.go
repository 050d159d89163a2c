package learned

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Curve is how long an engine that batches takes for one model on one kind of hardware,
// and what it was given to do meanwhile. Times are in seconds.
type Curve struct {
	// A prompt takes Start + Prefill for each of its tokens, and for each of them Growth
	// times as much again for every token before it.
	Start   float64 `json:"start,omitempty"`
	Prefill float64 `json:"prefill"`
	Growth  float64 `json:"growth,omitempty"`
	// A step takes A + B n + C kv with n requests in flight and kv tokens in their caches.
	A float64 `json:"a"`
	B float64 `json:"b"`
	C float64 `json:"c"`

	// Prompt and Output are the mean tokens of a prompt and of an answer, 0 while unknown.
	Prompt float64 `json:"prompt,omitempty"`
	Output float64 `json:"output,omitempty"`
	// KV is how many tokens the cache of a replica holds, and Slots how many requests it
	// takes at once; 0 where that is unknown or there is no bound.
	KV    float64 `json:"kv_tokens,omitempty"`
	Slots float64 `json:"slots,omitempty"`
	// Rate is how many requests a second a replica serves at most within the objective of
	// the service; 0 while unknown.
	Rate float64 `json:"rate,omitempty"`

	Samples float64 `json:"n"`
}

// Objective is what is promised of a streamed answer, in seconds; 0 promises nothing.
type Objective struct {
	TTFT float64 `json:"ttft_s,omitempty"` // from the request to the first token
	TPOT float64 `json:"tpot_s,omitempty"` // between two tokens
	E2E  float64 `json:"e2e_s,omitempty"`  // from the request to the last token
}

// String writes the objective as it is given: "ttft=2s tpot=100ms".
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
	// fullest bounds the share of its time that a replica can read prompts while answers
	// still go on.
	fullest = 0.95
)

// SlicesOf is the key of a curve in Class.Tokens: how many slices of how many of one GPU
// a replica has, such as "6of20", or how many whole GPUs, such as "1of1".
func SlicesOf(slices, total int) string {
	return fmt.Sprintf("%dof%d", max(slices, 1), max(total, 1))
}

// ParseSlices reads such a key.
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

// Speed is how many tokens a second a replica reads and writes at most within the
// objective of the service; 0 while unknown.
func (c Curve) Speed() float64 { return c.Rate * (c.Prompt + c.Output) }

// Held is how many tokens a mean request has in the cache, on average over the time
// that it is served.
func (c Curve) Held() float64 { return max(1, c.Prompt) + c.Output/2 }

// Reading is how long a prompt takes to read.
func (c Curve) Reading(tokens float64) float64 {
	return c.Start + c.Prefill*tokens*(1+c.Growth*tokens/2)
}

// Stepping is how long a step takes with n requests and kv tokens in their caches.
func (c Curve) Stepping(n, kv float64) float64 { return c.A + c.B*n + c.C*kv }

// Most returns the largest number of mean requests that a replica serves at once and
// still meets the objective, and how many a second it then serves; both are 0 where it
// misses the objective with one. Times Held it is the largest number of tokens in flight.
//
// With n requests at once, each of Output tokens and with work seconds of reading, a
// replica serves rate = n/(Output*step + n*work) a second, because reading holds up the
// steps of all, and reads for the share rate*work of its time. A token then takes
// step/(1-share) and a first token work/(1-share) on average: the caller leaves room for
// the part of requests that is slower.
func (c Curve) Most(o Objective) (n, rate float64) {
	bound := c.bound()
	n = float64(sort.Search(int(bound), func(i int) bool { return !c.meets(o, float64(i+1)) }))
	if n == 0 {
		return 0, 0
	}
	rate, _, _ = c.At(n)
	return n, rate
}

// bound is how many requests fit into a replica.
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

// Limit is what a replica does within an objective; times are in seconds.
type Limit struct {
	// Most is how many mean requests it serves at once, 0 where it misses the objective
	// with one. Rate is how many a second it then serves, or where Most is 0, half of what
	// it serves at most.
	Most, Rate float64
	// First and Token are the mean times to the first token and between tokens with so many
	// requests, with one where Most is 0.
	First, Token float64
	// Slack is how long a mean answer may be held up between its tokens, 0 for any time.
	Slack float64
}

// Within is what a replica does so that a part of the requests, the quantile, meets the
// objective, where Most is about the mean request alone.
func (c Curve) Within(o Objective, quantile float64) Limit {
	l := Limit{Most: float64(sort.Search(int(c.bound()), func(i int) bool {
		return !c.holds(o, quantile, float64(i+1))
	}))}
	if l.Most > 0 {
		l.Rate, _, _ = c.At(l.Most)
	} else {
		_, most := c.Most(Objective{})
		l.Rate = most / 2
	}
	n := max(1, l.Most)
	_, l.First, l.Token = c.At(n)
	if o.TPOT > 0 {
		l.Slack = max(0, (c.Output-1)*(o.TPOT-c.Stepping(n, n*c.Held())))
	}
	return l
}

// spread is the mean square of the time to read a prompt over the square of its mean, of
// times that are spread exponentially.
const spread = 2

// holds says whether a part of the answers keep their time between tokens among n requests:
// prompts of the n-1 others come at random while an answer lasts as long as it may, and each
// holds it up for as long as it is read. All of them together are spread about normally.
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
	stalls := c.Reading(max(1, c.Prompt)) * (reads + deviations*math.Sqrt(spread*reads))
	return stalls <= gaps*(o.TPOT-c.Stepping(n, n*c.Held()))
}

func (c Curve) meets(o Objective, n float64) bool {
	_, first, token := c.At(n)
	within := func(took, limit float64) bool { return limit <= 0 || took <= limit }
	return within(first, o.TTFT) && within(token, o.TPOT) && within(first+token*max(0, c.Output-1), o.E2E)
}

// At is what n requests at once get: how many a second, and the mean time to the first
// token and between tokens.
func (c Curve) At(n float64) (rate, first, token float64) {
	work := c.Reading(max(1, c.Prompt))
	step := c.Stepping(n, n*c.Held())
	rate = n / max(max(1, c.Output)*step+n*work, 1e-9)
	free := max(1-rate*work, 1-fullest)
	return rate, work / free, step / free
}

// figures are all numbers of a curve.
func (c *Curve) figures() []*float64 {
	return []*float64{&c.Start, &c.Prefill, &c.Growth, &c.A, &c.B, &c.C, &c.Prompt, &c.Output, &c.KV, &c.Slots, &c.Rate,
		&c.Samples}
}

// times is how many of the figures are times. A time may be 0, since a curve may have no
// slope; 0 in the others means unknown.
const times = 6

// Possible says whether no figure of a curve is negative or beyond all that is measured.
func (c Curve) Possible() bool {
	for _, f := range c.figures() {
		if !(*f >= 0 && *f <= 1e15) {
			return false
		}
	}
	return true
}

// curves is the mean of several in the making.
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
