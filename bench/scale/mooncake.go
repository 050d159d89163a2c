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

// longestPrompt is from how many tokens on a request of Mooncake's trace is left out: no
// replica here reads it in time.
const longestPrompt = 32_768

// readMooncake reads the conversation trace of Mooncake, whose times come in ticks of 3 s:
// the requests of a tick are spread over it evenly.
func readMooncake(folder string) (out []simulate.Request, err error) {
	file, err := os.Open(filepath.Join(folder, "mooncake_conversation.jsonl"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	tick := 0 // the first request of the present one
	for lines.Scan() {
		var q struct {
			Timestamp int64 `json:"timestamp"`
			Input     int   `json:"input_length"`
			Output    int   `json:"output_length"`
		}
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return nil, fmt.Errorf("mooncake_conversation.jsonl: %w", err)
		}
		if q.Input > longestPrompt {
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
