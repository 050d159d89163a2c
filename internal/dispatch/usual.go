package dispatch

import "sort"

// usual is what requests of the service turn out to be, in Tokens mode.
type usual struct {
	output  float64 // mean tokens of an answer
	prompt  float64 // mean tokens of a prompt
	answers float64 // how many they are the means of
	lengths lengths
}

// need is a request in tokens.
type need struct {
	prompt, output float64
	waited         float64 // seconds since it came
	blocks         []uint64
}

func (u *usual) needOf(t *Ticket) need {
	z := need{prompt: float64(max(t.Prompt, 1)), output: float64(t.Output), blocks: t.Blocks}
	if t.Output <= 0 {
		z.output = u.output
	}
	return z
}

// outputWeight is what a token of an answer costs, in tokens of a prompt, in what
// tenants are charged.
const outputWeight = 2

// tokensOf is what a request is charged, in mean requests.
func (u *usual) tokensOf(t *Ticket, output float64) float64 {
	mean := u.prompt + outputWeight*u.output
	return min((float64(t.Prompt)+outputWeight*output)/mean, extent)
}

// mostOutput is how many tokens of a request's answer are believed.
func (u *usual) mostOutput(t *Ticket) int { return mostOf(max(t.Output, int(u.output))) }

// add learns from a request that was served.
func (u *usual) add(t *Ticket) {
	u.answers = min(u.answers+1, outputMemory)
	u.prompt += (u.bounded(t.Prompt, u.prompt) - u.prompt) / u.answers
	if e := &t.entry; e.tokens > 0 && (e.counted || !t.Whole) {
		u.lengths.add(float64(e.tokens) / u.needOf(t).output)
		u.output += (u.bounded(e.tokens, u.output) - u.output) / max(u.answers, firstAnswers)
	}
}

// bounded is what one request's tokens count in a mean of more than a few: a false
// figure must not change the mean by much.
func (u *usual) bounded(tokens int, mean float64) float64 {
	if u.answers < firstAnswers {
		return float64(tokens)
	}
	return min(float64(tokens), extent*max(mean, 1))
}

// mostSequences bounds a batch whose cache and step do not: what engines do by
// default.
const mostSequences = 256

// sustained returns how many mean requests a replica of a kind serves at once at
// most, and how many a second it then serves. It is bounded by the replica's
// slots, its cache, and where an objective is set by the time between tokens.
//
// With n requests at once, each of output tokens and with work seconds of reading,
// a replica serves rate = n/(output*step + n*work): reading holds up the steps of
// all.
func (u *usual) sustained(k *kind, limit float64) (n, rate float64) {
	prompt := max(1, u.prompt)
	held := prompt + u.output/2
	most := float64(mostSequences)
	if k.slots > 1 {
		most = float64(k.slots)
	}
	if k.kv > 0 {
		most = max(1, min(most, float64(k.kv)/(prompt+u.output)))
	}
	work := k.speed.reading(prompt, prompt)
	at := func(n float64) (rate, token float64) {
		step := k.speed.stepping(n, n*held)
		rate = n / (u.output*step + n*work)
		return rate, step / max(1-rate*work, 1-fullest)
	}
	misses := func(i int) bool {
		_, token := at(float64(i + 2))
		return limit > 0 && token > limit
	}
	n = 1 + float64(sort.Search(int(most)-1, misses))
	rate, _ = at(n)
	return n, rate
}

// curveOf is what was learned of a kind.
func (u *usual) curveOf(k *kind) Curve {
	v := &k.speed
	c := Curve{
		Slices: k.slices, Total: k.total, Start: v.read[0], Prefill: v.read[1], Growth: attention,
		A: v.step[0], B: v.step[1], C: v.step[2], Prompt: u.prompt, Output: u.output, KV: k.kv, Rate: k.rate,
		Samples: k.learned.samples,
	}
	if k.slots > 1 {
		c.Slots = k.slots
	}
	return c
}
