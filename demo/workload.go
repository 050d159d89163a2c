package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"time"

	"aliquot.example/simulate"
)

// call is one request of the workload.
type call struct {
	// at is the intended arrival time, from the start of the replay.
	at            time.Duration
	service       string
	input, output int // tokens
	stream        bool
}

// The services of the demo. Three of four calls are for chat.
const (
	chat = "chat"
	code = "code"
)

// assign distributes the requests over the services. One call in eight is not streamed.
func assign(requests []simulate.Request) []call {
	calls := make([]call, 0, len(requests))
	for i, r := range requests {
		c := call{at: r.At, service: chat, input: max(1, r.InputTokens), output: max(1, r.OutputTokens),
			stream: i%8 != 7}
		if i%4 == 3 {
			c.service = code
		}
		calls = append(calls, c)
	}
	return calls
}

// readTrace reads the beginning of a recorded trace.
func readTrace(path string, length time.Duration) ([]simulate.Request, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	defer file.Close()
	all, err := simulate.ReadTrace(file, simulate.DefaultServiceModel())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	n := 0
	for n < len(all) && all[n].At < length {
		n++
	}
	if n == 0 {
		return nil,
			fmt.Errorf("%s: the first request arrives after %s, and only the first %s are played: use a longer -length",
				path, all[0].At, length)
	}
	return all[:n], nil
}

// phases are the phases of the generated burst: a quiet start, a flood, a plateau, silence, and a
// second, shorter flood. The rates, in requests per second, resemble production traffic: long quiet
// stretches, and peaks of 10 and more times the mean.
var phases = []struct {
	length time.Duration
	rate   float64
}{
	{12 * time.Second, 1}, {20 * time.Second, 24}, {20 * time.Second, 8}, {8 * time.Second, 0}, {12 * time.Second, 16},
	{8 * time.Second, 1},
}

// burst generates the workload: Poisson arrivals whose rate changes by phase, and lognormal token
// counts with the means and spreads of the code service in the Azure LLM inference trace 2023
// (Patel et al., Splitwise, ISCA 2024). It is the same on every run.
func burst() []simulate.Request {
	random := rand.New(rand.NewPCG(7, 11))
	lognormal := func(median, spread, most float64) int {
		return int(min(most, max(1, median*math.Exp(spread*random.NormFloat64()))))
	}
	var out []simulate.Request
	var start time.Duration
	for i, p := range phases {
		for at := next(random, start, p.rate); at < start+p.length; at = next(random, at, p.rate) {
			if i == 0 && len(out) == 0 {
				at = 0 // start at once: there is nothing to see before
			}
			out = append(out, simulate.Request{At: at, InputTokens: lognormal(1500, 0.8, 7500),
				OutputTokens: lognormal(20, 0.9, 400)})
		}
		start += p.length
	}
	return out
}

func next(random *rand.Rand, at time.Duration, rate float64) time.Duration {
	if rate == 0 {
		return math.MaxInt64
	}
	return at + time.Duration(random.ExpFloat64()/rate*float64(time.Second))
}
