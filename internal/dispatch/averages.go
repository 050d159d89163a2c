package dispatch

import "sort"

// averages holds the means of the service's requests, in Tokens mode.
type averages struct {
	output  float64 // mean tokens of an answer
	prompt  float64 // mean tokens of a prompt
	answers float64 // number of answers behind the means
	lengths lengths
}

// need is the size of a request in tokens.
type need struct {
	prompt, output float64
	waited         float64 // seconds since it arrived
	blocks         []uint64
}

func (a *averages) needOf(t *Ticket) need {
	z := need{prompt: float64(max(t.Prompt, 1)), output: float64(t.Output), blocks: t.Blocks}
	if t.Output <= 0 {
		z.output = a.output
	}
	return z
}

// outputWeight is the cost of an answer's token in prompt tokens, in what tenants are charged.
const outputWeight = 2

// chargeOf returns what a request is charged, in mean requests.
func (a *averages) chargeOf(t *Ticket, output float64) float64 {
	mean := a.prompt + outputWeight*a.output
	return min((float64(t.Prompt)+outputWeight*output)/mean, maxRatio)
}

// maxOutput returns the maximum tokens of a request's answer that are believed.
func (a *averages) maxOutput(t *Ticket) int { return maxReported(max(t.Output, int(a.output))) }

// add learns from a request that was served.
func (a *averages) add(t *Ticket) {
	a.answers = min(a.answers+1, outputMemory)
	a.prompt += (a.bounded(t.Prompt, a.prompt) - a.prompt) / a.answers
	if e := &t.entry; e.tokens > 0 && (e.counted || !t.Whole) {
		a.lengths.add(float64(e.tokens) / a.needOf(t).output)
		a.output += (a.bounded(e.tokens, a.output) - a.output) / max(a.answers, defaultOutputWeight)
	}
}

// bounded returns what one request's tokens count in a mean of more than a few requests: a wrong
// number must not change the mean by much.
func (a *averages) bounded(tokens int, mean float64) float64 {
	if a.answers < defaultOutputWeight {
		return float64(tokens)
	}
	return min(float64(tokens), maxRatio*max(mean, 1))
}

// defaultSequences limits a batch that neither the cache nor the step limits. It is the default of
// engines.
const defaultSequences = 256

// sustained returns the maximum number of mean requests that a replica of a kind serves at once,
// and how many per second it then serves. The limits are the replica's slots, its cache, and the
// objective for the time between tokens if there is one.
//
// With n requests at once, each of output tokens and with work seconds of prefill, a replica serves
// rate = n/(output*step + n*work), because prefill delays the steps of all.
func (a *averages) sustained(k *kind, limit float64) (n, rate float64) {
	prompt := max(1, a.prompt)
	held := prompt + a.output/2
	most := float64(defaultSequences)
	if k.slots > 1 {
		most = float64(k.slots)
	}
	if k.kv > 0 {
		most = max(1, min(most, float64(k.kv)/(prompt+a.output)))
	}
	work := k.speed.prefillTime(prompt, prompt)
	at := func(n float64) (rate, token float64) {
		step := k.speed.stepTime(n, n*held)
		rate = n / (a.output*step + n*work)
		return rate, step / max(1-rate*work, 1-maxPrefillShare)
	}
	misses := func(i int) bool {
		_, token := at(float64(i + 2))
		return limit > 0 && token > limit
	}
	n = 1 + float64(sort.Search(int(most)-1, misses))
	rate, _ = at(n)
	return n, rate
}

// curveOf returns what was learned about a kind.
func (a *averages) curveOf(k *kind) Curve {
	v := &k.speed
	c := Curve{
		Slices: k.slices, Total: k.total, Start: v.prefill[0], Prefill: v.prefill[1], Growth: attention,
		A: v.step[0], B: v.step[1], C: v.step[2], Prompt: a.prompt, Output: a.output, KV: k.kv, Rate: k.rate,
		Samples: k.learned.samples,
	}
	if k.slots > 1 {
		c.Slots = k.slots
	}
	return c
}
