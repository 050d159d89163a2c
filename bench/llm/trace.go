package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"aliquot.example/simulate"
)

// page is the tokens that one hash of a prompt covers, as in the Mooncake trace.
const page = 512

// maxPrompt is the most tokens of prompt and answer that a request of a replay has.
const maxPrompt = 65_536

// traced is one request of a recording.
type traced struct {
	at             time.Duration
	prompt, output int
	prefix         []uint64 // of the full pages of the prompt
}

// traceNames are the recordings by the name of the flag.
var traceNames = map[string]string{
	"conversation": "mooncake_conversation.jsonl",
	"azure-conv":   "azure2023_conv.csv",
	"azure-code":   "azure2023_code.csv",
}

func readTrace(folder, name string) ([]traced, error) {
	base, ok := traceNames[name]
	if !ok {
		return nil, fmt.Errorf("unknown trace %q: want conversation, azure-conv or azure-code", name)
	}
	file, err := os.Open(filepath.Join(folder, base))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []traced
	if filepath.Ext(base) == ".csv" {
		requests, err := simulate.ReadTrace(file, simulate.DefaultServiceModel())
		if err != nil {
			return nil, err
		}
		for _, r := range requests {
			all = append(all, traced{r.At, max(1, r.InputTokens), max(1, r.OutputTokens), nil})
		}
	} else if all, err = readMooncake(bufio.NewScanner(file)); err != nil {
		return nil, fmt.Errorf("%s: %w", base, err)
	}
	return slices.DeleteFunc(all, func(r traced) bool { return r.prompt+r.output > maxPrompt }), nil
}

func readMooncake(lines *bufio.Scanner) ([]traced, error) {
	var all []traced
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l struct {
			Timestamp int64    `json:"timestamp"`
			Input     int      `json:"input_length"`
			Output    int      `json:"output_length"`
			Hashes    []uint64 `json:"hash_ids"`
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(all)+1, err)
		}
		all = append(all, traced{
			at: time.Duration(l.Timestamp) * time.Millisecond, prompt: max(1, l.Input), output: max(1, l.Output),
			prefix: l.Hashes[:min(len(l.Hashes), l.Input/page)],
		})
	}
	spread(all)
	return all, lines.Err()
}

// spread gives requests of one tick even distances; the recording has ticks of 3 s.
func spread(all []traced) {
	const tick = 3 * time.Second
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j].at == all[i].at {
			j++
		}
		for k := range j - i {
			all[i+k].at += tick * time.Duration(k) / time.Duration(j-i)
		}
		i = j
	}
}

// cut returns a run of n requests from a random place, which comes at rate requests
// per second; the trace goes on from its start where it ends. With poisson the
// arrivals are drawn, not recorded.
func cut(all []traced, seed uint64, n int, rate float64, poisson bool) []*request {
	r := rand.New(rand.NewPCG(seed, 0x6c6c6d))
	n = min(n, len(all))
	start := r.IntN(len(all))
	length := all[len(all)-1].at + time.Second
	out := make([]*request, n)
	for i := range out {
		t := all[(start+i)%len(all)]
		at := t.at - all[start].at
		if start+i >= len(all) {
			at += length
		}
		out[i] = &request{traced: t, id: i}
		out[i].at = at
	}
	if last := out[n-1].at; last > 0 {
		stretch := float64(n) / rate / last.Seconds()
		for _, q := range out {
			q.at = time.Duration(float64(q.at) * stretch)
		}
	}
	if poisson {
		at := 0.0
		for _, q := range out {
			at += r.ExpFloat64() / rate
			q.at = time.Duration(at * float64(time.Second))
		}
	}
	return out
}
