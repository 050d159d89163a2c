package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"aliquot.example/internal/dispatch"
)

// An engine that is not our own: llama.cpp on the CPU, with a model of random weights,
// by the scripts in the folder llama. The product's dispatch and learning sit before it
// as they do in the gateway, and what they learned is printed beside what was measured.

const (
	llamaSequences = 8
	llamaClass     = "cpu" // in no table
	llamaLength    = 2 * time.Minute
)

// trial is a run of calls against the engine.
type trial struct {
	mu      sync.Mutex
	queue   *dispatch.Queue
	url     string
	pending int // sent, without a token
	changes int // of pending, ever
	streams int
	kv      int
	steps   map[int][]float64 // seconds between tokens while nothing is read, by streams
	held    map[int]int       // tokens in the cache at those, summed
	reads   []readSample
}

// readSample is a prompt that was read while no other was.
type readSample struct {
	tokens  int
	seconds float64
}

// llama starts the engine from a folder, lets calls come for a while and compares.
func llama(w io.Writer, folder string, length time.Duration) error {
	if _, err := os.Stat(filepath.Join(folder, "node_modules")); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s has no node_modules: run npm install --no-save --omit=optional --ignore-scripts there",
			folder)
	}
	dir, err := os.MkdirTemp("", "aliquot-bench-llama-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	model := filepath.Join(dir, "random.gguf")
	if out, err := exec.Command("node", filepath.Join(folder, "model.mjs"), model).CombinedOutput(); err != nil {
		return fmt.Errorf("writing the model: %w: %s", err, out)
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	_, port, _ := strings.Cut(address, ":")
	ctx, cancel := context.WithTimeout(context.Background(), length+5*time.Minute)
	defer cancel()
	engine, err := launchWithin(ctx, 2*time.Minute, []string{"node", filepath.Join(folder, "server.mjs"), model, port,
		strconv.Itoa(llamaSequences), "1"}, address)
	if err != nil {
		return err
	}
	defer engine.end()
	t := &trial{
		queue: dispatch.New(dispatch.Policy{Mode: dispatch.Tokens}), url: "http://" + address,
		steps: map[int][]float64{}, held: map[int]int{},
	}
	// A tenth of what an H100 is: far from right, as it would be for any CPU.
	t.queue.Put(dispatch.Replica{ID: "llama", Class: llamaClass, Slots: llamaSequences, Weight: 0.1 / llamaSequences})
	if err := t.run(ctx, length); err != nil {
		return err
	}
	t.print(w)
	return nil
}

// run keeps one to as many callers busy as the engine has sequences.
func (t *trial) run(ctx context.Context, length time.Duration) error {
	end := time.Now().Add(length)
	failed := make(chan error, llamaSequences)
	var wait sync.WaitGroup
	for caller := range llamaSequences {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(caller)))
			for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
				if random.IntN(llamaSequences) < caller { // the later callers rest for longer
					time.Sleep(time.Duration(1+random.IntN(caller+1)) * time.Second)
				}
				if err := t.call(ctx, 20+random.IntN(600), 10+random.IntN(50)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wait.Wait()
	close(failed)
	return <-failed
}

// call waits for the queue to release a request, and reports the answer back to it.
func (t *trial) call(ctx context.Context, prompt, output int) error {
	ticket := &dispatch.Ticket{Request: dispatch.Request{Prompt: prompt, Expire: time.Now().Add(time.Hour)}}
	t.mu.Lock()
	why, _ := t.queue.Submit(ticket, time.Now())
	t.mu.Unlock()
	if why != dispatch.Accepted {
		return fmt.Errorf("refused: %d", why)
	}
	for {
		t.mu.Lock()
		t.queue.Next(time.Now())
		_, sent := ticket.Replica()
		if sent {
			t.pending++
			t.changes++
			t.kv += prompt
		}
		t.mu.Unlock()
		if sent {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	// The server puts "user: " before a message and ends its line.
	body, err := json.Marshal(map[string]any{
		"stream": true, "max_tokens": output,
		"messages": []map[string]string{{"role": "user", "content": strings.Repeat("a", max(1, prompt-7))}},
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost,
		t.url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return t.answer(request, ticket, prompt)
}

// answer reads the tokens of a request.
func (t *trial) answer(request *http.Request, ticket *dispatch.Ticket, prompt int) error {
	t.mu.Lock()
	sent, changes, alone := time.Now(), t.changes, t.pending == 1
	t.mu.Unlock()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answers %s", response.Status)
	}
	made, last := 0, sent
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if !bytes.Contains(lines.Bytes(), []byte(`"content"`)) {
			continue
		}
		made++
		now := time.Now()
		t.mu.Lock()
		t.queue.Progress(ticket, made, now)
		if made == 1 {
			t.pending--
			if alone && t.changes == changes {
				t.reads = append(t.reads, readSample{prompt, now.Sub(sent).Seconds()})
			}
			t.changes++
			t.streams++
		} else if t.changes == changes && t.pending == 0 {
			t.steps[t.streams] = append(t.steps[t.streams], now.Sub(last).Seconds())
			t.held[t.streams] += t.kv
		}
		t.kv++
		changes, last = t.changes, now
		t.mu.Unlock()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams--
	t.changes++
	t.kv -= prompt + made
	t.queue.Settle(ticket, prompt, 0, made)
	t.queue.Finish(ticket, dispatch.Served, 0, time.Now())
	return nil
}

// middle is the median and the mean of samples.
func middle(of []float64) (median, mean float64) {
	slices.Sort(of)
	for _, x := range of {
		mean += x / float64(len(of))
	}
	return of[len(of)/2], mean
}

// print shows the curves. Fewer samples than enough are left out.
func (t *trial) print(w io.Writer) {
	const enough = 10
	learned, before := t.queue.Speeds(time.Now())[0], t.queue.Speeds(time.Time{})[0]
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "step of\tsamples\tassumed ms\tlearned ms\tmeasured median ms\tmean ms\t")
	for n := 1; n <= llamaSequences; n++ {
		if k := len(t.steps[n]); k >= enough {
			kv := float64(t.held[n]) / float64(k)
			median, mean := middle(t.steps[n])
			fmt.Fprintf(out, "%d answers\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t\n", n, k, 1e3*before.StepTime(float64(n), kv),
				1e3*learned.StepTime(float64(n), kv), 1e3*median, 1e3*mean)
		}
	}
	fmt.Fprintln(out, "prompt of\t\t\t\t\t\t")
	for low := 0; low < 640; low += 160 {
		var took, tokens []float64
		for _, r := range t.reads {
			if r.tokens >= low && r.tokens < low+160 {
				took, tokens = append(took, r.seconds), append(tokens, float64(r.tokens))
			}
		}
		if len(took) >= enough {
			_, length := middle(tokens)
			median, mean := middle(took)
			fmt.Fprintf(out, "%.0f tokens\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t\n", length, len(took),
				1e3*before.PrefillTime(length), 1e3*learned.PrefillTime(length), 1e3*median, 1e3*mean)
		}
	}
	out.Flush()
}
