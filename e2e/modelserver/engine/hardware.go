package engine

import (
	"slices"
	"time"
)

// Every class serves a model of 8 billion parameters in the shape of Llama 3: 32 layers, 4096 wide,
// with 8 heads of 128 for keys and values.
const (
	layers, width = 32, 4096
	parameters    = 8.03e9
	// kvBytes is the size of one token in the KV cache: keys and values of 8 heads of 128 in each
	// layer, of 2 bytes each.
	kvBytes = layers * 8 * 128 * 2 * 2
	// tokenFLOP is the work of one token in all matrix multiplications.
	tokenFLOP = 2 * parameters
	// pairFLOP is the work of attention between one token and one earlier token.
	pairFLOP = 4 * layers * width
	// perSequence is the time in seconds that a step spends on each sequence of its batch, for
	// sampling and block tables.
	perSequence = 20e-6
)

// Hardware is a GPU, or a part of one, that serves the model. The figures are what software
// achieves, not those of the data sheet.
type Hardware struct {
	Class string
	// Weights is the size of the model's weights in bytes.
	Weights float64
	// Bandwidth is the memory bandwidth in bytes per second.
	Bandwidth float64
	// FLOPS is floating-point operations per second.
	FLOPS float64
	// Overhead is the fixed time of each step in seconds.
	Overhead float64
	// KVTokens is the number of tokens that fit into the KV cache.
	KVTokens int
	// Budget is the maximum number of tokens that one step computes.
	Budget int
}

const bf16 = 2 * parameters

// classes are derived from data sheets: 0.8 of the memory bandwidth (0.7 for MI300X and T4), and of
// the dense matrix rate 0.5 (A100), 0.45 (H100, L4) or 0.35 (MI300X, T4). The L4 holds weights in
// FP8 and the T4 in 4 bits, with embeddings in 16.
var classes = []Hardware{
	{"h100", bf16, 0.8 * 3.35e12, 0.45 * 989e12, 2e-3, 450_000, 8192},
	{"mi300x", bf16, 0.7 * 5.3e12, 0.35 * 1307e12, 3e-3, 1_270_000, 8192},
	{"half-h100", bf16, 0.8 * 3.35e12 / 2, 0.45 * 989e12 / 2, 2e-3, 157_000, 2048},
	{"a100", bf16, 0.8 * 2.039e12, 0.5 * 312e12, 2e-3, 450_000, 2048},
	{"l4", 8.5e9, 0.8 * 300e9, 0.45 * 242e12, 2e-3, 85_000, 2048},
	{"t4", 5.7e9, 0.7 * 320e9, 0.35 * 65e12, 3e-3, 50_000, 2048},
}

// Classes returns all known hardware classes.
func Classes() []Hardware { return slices.Clone(classes) }

// Class returns the hardware class of that name, or false if it is unknown.
func Class(name string) (Hardware, bool) {
	i := slices.IndexFunc(classes, func(h Hardware) bool { return h.Class == name })
	if i < 0 {
		return Hardware{}, false
	}
	return classes[i], true
}

// work is the work of one step.
type work struct {
	tokens    int // tokens to compute, of prompts and answers
	sequences int
	context   int // tokens that decoding sequences read from the KV cache
	// pairs is the number of earlier tokens, summed over all prompt tokens.
	pairs float64
}

// seconds returns the duration of a step. Reading the weights and computing the matrices happen at
// the same time, so the slower one counts.
func (h Hardware) seconds(w work) float64 {
	return h.Overhead +
		max(h.Weights/h.Bandwidth, float64(w.tokens)*tokenFLOP/h.FLOPS) +
		float64(w.sequences)*perSequence +
		float64(w.context)*kvBytes/h.Bandwidth +
		w.pairs*pairFLOP/h.FLOPS
}

// Prefill returns the time for the fresh tokens at the end of a prompt, without other work and
// without overhead.
func (h Hardware) Prefill(fresh, prompt int) time.Duration {
	pairs := float64(fresh) * (float64(prompt) - float64(fresh)/2)
	return time.Duration((float64(fresh)*tokenFLOP + pairs*pairFLOP) / h.FLOPS * float64(time.Second))
}

// Truth is what a measurement from outside should find: the seconds for a prompt token, its
// relative growth with each earlier token, and the seconds of a step without sequences, for each
// sequence and for each token in the cache.
type Truth struct{ Prefill, Growth, Step, Sequence, Token float64 }

// Truth returns the values with which the hardware computes. They hold where steps are limited by
// memory bandwidth and prompts by computation.
func (h Hardware) Truth() Truth {
	return Truth{
		Prefill: tokenFLOP / h.FLOPS, Growth: pairFLOP / tokenFLOP,
		Step: h.Overhead + h.Weights/h.Bandwidth, Sequence: perSequence, Token: kvBytes / h.Bandwidth,
	}
}
