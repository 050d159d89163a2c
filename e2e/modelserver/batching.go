package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"aliquot.example/e2e/modelserver/engine"

	"github.com/prometheus/client_golang/prometheus"
)

// vllmSeqs is vLLM's default for the maximum number of sequences in a step.
const vllmSeqs = 256

// patience is the longest delay of a step that later steps still make up for. What a busy machine
// delays beyond that is lost, as on a real GPU.
const patience = 50 * time.Millisecond

// batching runs the engine of one class of GPU in real time.
type batching struct {
	mu      sync.Mutex
	engine  *engine.Engine
	speedup float64
	longest int           // maximum tokens of prompt and answer
	wake    chan struct{} // signals new work while the engine is idle
}

func classNames() []string {
	var out []string
	for _, h := range engine.Classes() {
		out = append(out, h.Class)
	}
	return out
}

func newBatching(o options) *batching {
	h, _ := engine.Class(o.engine) // options.check has verified that the class exists
	if o.budget > 0 {
		h.Budget = o.budget
	}
	b := &batching{
		engine: engine.New(engine.Config{Hardware: h, MaxSeqs: o.slots}), speedup: o.speedup,
		longest: h.KVTokens, wake: make(chan struct{}, 1),
	}
	if o.longest > 0 {
		b.longest = min(b.longest, o.longest)
	}
	return b
}

// run steps the engine until ctx ends. A step is due at a fixed time after the one before it, so
// that late timers do not add up to a slower GPU.
func (b *batching) run(ctx context.Context) {
	due := time.Now()
	for {
		b.mu.Lock()
		took, ok := b.engine.Begin()
		b.mu.Unlock()
		if !ok {
			select {
			case <-b.wake:
				due = time.Now()
				continue
			case <-ctx.Done():
				return
			}
		}
		due = due.Add(time.Duration(float64(took) / b.speedup))
		if now := time.Now(); now.Sub(due) > patience {
			due = now
		}
		if wait(ctx, time.Until(due)) != nil {
			return
		}
		b.mu.Lock()
		for _, s := range b.engine.End() {
			s.Value.(*stream).step(s.Made())
		}
		b.mu.Unlock()
	}
}

// stream carries one answer from the engine to its handler, which may be slower.
type stream struct {
	sequence engine.Sequence
	made     atomic.Int64
	more     chan struct{}
}

func (s *stream) step(made int) {
	s.made.Store(int64(made))
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (b *batching) accept(_ context.Context, j job) (*work, error) {
	s := &stream{more: make(chan struct{}, 1)}
	s.sequence = engine.Sequence{Prompt: max(1, j.prompt), Output: j.output, Value: s}
	if j.prompt+j.output > b.longest {
		return nil, fmt.Errorf(
			"the model's maximum context length is %d tokens, the request has %d in the prompt and asks for %d: %w",
			b.longest, j.prompt, j.output, engine.ErrTooLong)
	}
	if j.prefix != nil {
		s.sequence.Prefix = j.prefix(b.engine.Config().Page)
	}
	b.mu.Lock()
	err := b.engine.Add(&s.sequence)
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return &work{
		run: func(ctx context.Context, each func(i int) error) error { return s.deliver(ctx, j.output, each) },
		cached: func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return s.sequence.Hit()
		},
		end: func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if s.sequence.Made() < j.output {
				b.engine.Drop(&s.sequence)
			}
		},
	}, nil
}

func (s *stream) deliver(ctx context.Context, output int, each func(i int) error) error {
	for sent := 0; sent < output; {
		select {
		case <-s.more:
		case <-ctx.Done():
			return ctx.Err()
		}
		for ; sent < int(s.made.Load()); sent++ {
			if err := each(sent); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *batching) occupancy() occupancy {
	b.mu.Lock()
	defer b.mu.Unlock()
	return occupancy{most: b.engine.Config().MaxSeqs, running: b.engine.Running(), waiting: b.engine.Waiting()}
}

// metricNames are the metric names of an engine. A metric with an empty name is not exported.
type metricNames struct {
	running, waiting, used, preemptions, queried, hit string
	info, block, blocks                               string
}

var (
	asVLLMNames = metricNames{
		"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
		"vllm:num_preemptions_total", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
		"vllm:cache_config_info", "block_size", "num_gpu_blocks",
	}
	asSGLangNames = metricNames{
		running: "sglang:num_running_reqs", waiting: "sglang:num_queue_reqs", used: "sglang:token_usage",
		info: "sglang:cache_config_info", block: "page_size", blocks: "num_pages",
	}
)

// export registers the metrics that routers and people read, under an engine's names.
func (b *batching) export(to prometheus.Registerer, model string, as metricNames) {
	label := prometheus.Labels{"model_name": model, "engine": "0"}
	read := func(value func(*engine.Engine) float64) func() float64 {
		return func() float64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return value(b.engine)
		}
	}
	gauge := func(name, help string, value func(*engine.Engine) float64) {
		to.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: label},
			read(value)))
	}
	counter := func(name, help string, value func(engine.Counts) int) {
		if name == "" {
			return
		}
		of := func(e *engine.Engine) float64 { return float64(value(e.Counts())) }
		to.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help,
			ConstLabels: label}, read(of)))
	}
	gauge(as.running, "Requests in the batch.", func(e *engine.Engine) float64 { return float64(e.Running()) })
	gauge(as.waiting, "Requests that wait for the batch.", func(e *engine.Engine) float64 {
		return float64(e.Waiting())
	})
	gauge(as.used, "Part of the KV cache in use, 0 to 1.", (*engine.Engine).KVUsage)
	counter(as.preemptions, "Preemptions.", func(c engine.Counts) int { return c.Preemptions })
	counter(as.queried, "Prompt tokens looked up in the prefix cache.", func(c engine.Counts) int { return c.Queried })
	counter(as.hit, "Prompt tokens found in the prefix cache.", func(c engine.Counts) int { return c.Hit })
	c := b.engine.Config()
	to.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: as.info, Help: "Settings of the KV cache.",
		ConstLabels: prometheus.Labels{
			"engine": "0", as.block: strconv.Itoa(c.Block), as.blocks: strconv.Itoa(b.engine.Blocks()),
			"enable_prefix_caching": "True",
		},
	}, func() float64 { return 1 }))
}
