package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"aliquot.example/simulate"
)

// maxPrompt is the maximum prompt of a request from Mooncake's trace, in tokens. No replica
// here can read a longer one in time, so those are left out.
const maxPrompt = 32_768

// readMooncake reads the conversation trace of Mooncake. Its timestamps are multiples of 3 s;
// readMooncake spreads the requests of each tick evenly over it.
func readMooncake(folder string) (out []simulate.Request, err error) {
	file, err := os.Open(filepath.Join(folder, "mooncake_conversation.jsonl"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	tick := 0 // index of the first request of the current tick
	for lines.Scan() {
		var q struct {
			Timestamp int64 `json:"timestamp"`
			Input     int   `json:"input_length"`
			Output    int   `json:"output_length"`
		}
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return nil, fmt.Errorf("mooncake_conversation.jsonl: %w", err)
		}
		if q.Input > maxPrompt {
			continue
		}
		r := simulate.Request{At: time.Duration(q.Timestamp) * time.Millisecond, InputTokens: q.Input,
			OutputTokens: q.Output}
		if len(out) > 0 && r.At != out[tick].At {
			spread(out[tick:])
			tick = len(out)
		}
		out = append(out, r)
	}
	spread(out[min(tick, len(out)):])
	return out, lines.Err()
}

func spread(requests []simulate.Request) {
	const tick = 3 * time.Second
	for i := range requests {
		requests[i].At += tick * time.Duration(i) / time.Duration(len(requests))
	}
}
