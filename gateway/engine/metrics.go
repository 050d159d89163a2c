// Package engine reads the metrics of a service's inference engines: the size and use of their
// caches, and the number of running and waiting requests. An engine without metrics is normal; its
// values stay unknown. The package also puts engines to sleep and wakes them.
package engine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// State is the state in an engine's metrics. A missing number is -1.
type State struct {
	// Kind is the engine, "" for an unknown one.
	Kind             string
	Running, Waiting int
	KVUsed           float64 // used fraction of the cache, 0 to 1
	KVTokens         int     // size of the cache in tokens
	Preemptions      float64 // number of preemptions since the engine started
}

// selector selects the samples of a metric: all of them, or those where label has the value.
type selector struct{ metric, label, value string }

// names are the metrics of one engine, as documented by the engine and as read by llm-d's endpoint
// picker.
type names struct {
	kind                         string
	running, waiting             selector
	used                         []selector // any of these
	blocks, perBlock             selector   // samples whose product is the size of the cache
	info, infoBlocks, infoTokens string     // or a metric whose labels have the size
	preemptions                  selector
}

var engines = []names{
	{
		kind:    "vllm",
		running: selector{metric: "vllm:num_requests_running"}, waiting: selector{metric: "vllm:num_requests_waiting"},
		used: []selector{{metric: "vllm:kv_cache_usage_perc"}, {metric: "vllm:gpu_cache_usage_perc"}},
		info: "vllm:cache_config_info", infoBlocks: "num_gpu_blocks", infoTokens: "block_size",
		preemptions: selector{metric: "vllm:num_preemptions_total"},
	},
	{
		kind:    "sglang",
		running: selector{metric: "sglang:num_running_reqs"}, waiting: selector{metric: "sglang:num_queue_reqs"},
		used: []selector{{metric: "sglang:token_usage"}},
		info: "sglang:cache_config_info", infoBlocks: "num_pages", infoTokens: "page_size",
	},
	{
		kind:    "tgi",
		running: selector{metric: "tgi_batch_current_size"}, waiting: selector{metric: "tgi_queue_size"},
	},
	{
		kind:     "trtllm",
		running:  selector{metric: "trtllm_num_requests_running"},
		waiting:  selector{metric: "trtllm_num_requests_waiting"},
		used:     []selector{{metric: "trtllm_kv_cache_utilization"}},
		blocks:   selector{metric: "trtllm_kv_cache_max_blocks"},
		perBlock: selector{metric: "trtllm_kv_cache_tokens_per_block"},
	},
	{
		kind:    "triton",
		running: selector{"nv_trt_llm_request_metrics", "request_type", "scheduled"},
		waiting: selector{"nv_trt_llm_request_metrics", "request_type", "waiting"},
		used:    []selector{{"nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction"}},
		blocks:  selector{"nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "max"},
		perBlock: selector{
			"nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "tokens_per",
		},
	},
}

const (
	// maxLine is the longest line of metrics that is read, in bytes.
	maxLine = 16 << 10
	// maxKnown limits the total size of lines of known metrics, in bytes. An engine has a few
	// lines per model.
	maxKnown = 256 << 10
)

// Parse parses metrics in Prometheus's text format. It ignores other metrics, and returns an error
// for an invalid line of a known one.
func Parse(r io.Reader) (State, error) {
	kept, err := known(r)
	if err != nil {
		return State{}, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(kept))
	if err != nil {
		return State{}, err
	}
	for i := range engines {
		if s := engines[i].read(families); s.Kind != "" {
			return s, nil
		}
	}
	return State{Running: -1, Waiting: -1, KVUsed: -1, KVTokens: -1, Preemptions: -1}, nil
}

// known returns the lines of known metrics. An engine has hundreds of others.
func known(r io.Reader) ([]byte, error) {
	var kept []byte
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		whole := err == nil || err == io.EOF
		if whole && isKnown(line) {
			if len(kept)+len(line) > maxKnown {
				return nil, fmt.Errorf("the lines of known metrics exceed %d KiB", maxKnown>>10)
			}
			kept = append(append(kept, bytes.TrimRight(line, "\r\n")...), '\n')
		}
		switch err {
		case nil, bufio.ErrBufferFull:
		case io.EOF:
			return kept, nil
		default:
			return nil, err
		}
	}
}

var wanted = func() map[string]bool {
	m := map[string]bool{}
	for _, e := range engines {
		for _, s := range append([]selector{e.running, e.waiting, e.blocks, e.perBlock, e.preemptions,
			{metric: e.info}}, e.used...) {
			m[s.metric] = true
		}
	}
	delete(m, "")
	return m
}()

func isKnown(line []byte) bool {
	i := bytes.IndexAny(line, "{ \t")
	return i > 0 && wanted[string(line[:i])]
}

func (n *names) read(families map[string]*dto.MetricFamily) State {
	running, waiting := sum(families, n.running), sum(families, n.waiting)
	if running < 0 && waiting < 0 {
		return State{}
	}
	s := State{
		Kind: n.kind, Running: count(running), Waiting: count(waiting), KVUsed: -1, KVTokens: n.size(families),
		Preemptions: sum(families, n.preemptions),
	}
	for _, u := range n.used {
		if v := mean(families, u); v >= 0 {
			s.KVUsed = min(v, 1)
			break
		}
	}
	return s
}

// size returns the size of the cache in tokens, summed over all engines of a server.
func (n *names) size(families map[string]*dto.MetricFamily) int {
	if n.info == "" {
		blocks, tokens := sum(families, n.blocks), mean(families, n.perBlock)
		if blocks <= 0 || tokens <= 0 {
			return -1
		}
		return count(blocks * tokens)
	}
	total := 0.0
	for _, m := range families[n.info].GetMetric() {
		blocks, err := strconv.ParseFloat(label(m, n.infoBlocks), 64)
		tokens, err2 := strconv.ParseFloat(label(m, n.infoTokens), 64)
		if err == nil && err2 == nil && blocks > 0 && tokens > 0 {
			total += blocks * tokens
		}
	}
	if total == 0 {
		return -1
	}
	return count(total)
}

// count converts a sample to a whole number, -1 for an invalid one.
func count(v float64) int {
	if !(v >= 0) {
		return -1
	}
	return int(min(math.Round(v), 1<<40))
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// sum returns the sum of the samples of a metric, -1 if there is none. A server with several
// engines has several samples.
func sum(families map[string]*dto.MetricFamily, s selector) float64 {
	total, n := fold(families, s)
	if n == 0 {
		return -1
	}
	return total
}

func mean(families map[string]*dto.MetricFamily, s selector) float64 {
	total, n := fold(families, s)
	if n == 0 {
		return -1
	}
	return total / float64(n)
}

func fold(families map[string]*dto.MetricFamily, s selector) (total float64, n int) {
	for _, m := range families[s.metric].GetMetric() {
		if s.label != "" && !strings.EqualFold(label(m, s.label), s.value) {
			continue
		}
		// Samples are untyped, because known drops the TYPE lines.
		if v := m.GetUntyped().GetValue(); v >= 0 && !math.IsInf(v, 0) {
			total += v
			n++
		}
	}
	return total, n
}
