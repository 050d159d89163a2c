// Package engine reads the metrics of the engines behind a service:
// how large their caches are, how much of them is used, how many requests run and
// wait. An engine that says nothing is normal; what is learned then stays unknown.
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

// State is what an engine's metrics say. A number that they do not say is -1.
type State struct {
	// Kind is the engine, "" when the metrics are of none that is known.
	Kind             string
	Running, Waiting int
	KVUsed           float64 // fraction of the cache, 0 to 1
	KVTokens         int     // size of the cache
	Preemptions      float64 // requests that were thrown out of the cache, ever
}

// selector is a sample: of a metric, and where label is set with that value of it.
type selector struct{ metric, label, value string }

// names are the metrics of one engine. Names are as the engines document them and
// as llm-d's endpoint picker reads them.
type names struct {
	kind                         string
	running, waiting             selector
	used                         []selector // any of them
	blocks, perBlock             selector   // samples whose product is the size of the cache
	info, infoBlocks, infoTokens string     // or a metric with labels that say it
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
	// longestLine bounds a line of metrics that is looked at.
	longestLine = 16 << 10
	// mostKnown bounds the lines of known metrics, in bytes: an engine has a few for each
	// of its models.
	mostKnown = 256 << 10
)

// Parse reads metrics in Prometheus' text format. Lines of other metrics are not
// looked at; a line of a known one that is wrong is an error.
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

// known keeps the lines of known metrics: an engine has hundreds of others.
func known(r io.Reader) ([]byte, error) {
	var kept []byte
	lines := bufio.NewReaderSize(r, longestLine)
	for {
		line, err := lines.ReadSlice('\n')
		whole := err == nil || err == io.EOF
		if whole && isKnown(line) {
			if len(kept)+len(line) > mostKnown {
				return nil, fmt.Errorf("more than %d KiB of them are of an engine's load", mostKnown>>10)
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

// size is how many tokens the cache holds, over all engines of a server.
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

// count makes a number of things of a sample.
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

// sum adds the samples of a metric, which are several where a server has several
// engines; -1 when there is none.
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
		// Without its type line every sample is untyped.
		if v := m.GetUntyped().GetValue(); v >= 0 && !math.IsInf(v, 0) {
			total += v
			n++
		}
	}
	return total, n
}
