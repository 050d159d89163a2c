package engine

import (
	"slices"
	"time"
)

// The model that every class serves is one of 8 billion parameters in the shape of
// Llama 3: 32 layers, 4096 wide, 8 heads of 128 for keys and values.
const (
	layers, width = 32, 4096
	parameters    = 8.03e9
	// kvBytes is what one token keeps in the KV cache: keys and values of 8 heads of
	// 128 in each layer, in 2 bytes.
	kvBytes = layers * 8 * 128 * 2 * 2
	// tokenFLOP is the work of one token in all matrices.
	tokenFLOP = 2 * parameters
	// pairFLOP is the work of attention for one token and one token before it.
	pairFLOP = 4 * layers * width
	// perSequence is what a step spends on each sequence of its batch, on sampling
	// and on the tables of its blocks.
	perSequence = 20e-6
)

// Hardware is a GPU, or a part of one, that serves the model. Figures are what the
// software reaches, not those of the data sheet.
type Hardware struct {
	Class string
	// Weights of the model, in bytes.
	Weights float64
	// Bandwidth of the memory in bytes per second.
	Bandwidth float64
	// FLOPS is floating-point operations per second.
	FLOPS float64
	// Overhead of each step in seconds.
	Overhead float64
	// KVTokens is how many tokens the KV cache holds.
	KVTokens int
	// Budget is the most tokens that one step computes.
	Budget int
}

const bf16 = 2 * parameters

// classes are derived from data sheets: 0.8 of the bandwidth (MI300X and T4 0.7),
// and of the dense matrix rate 0.5 (A100), 0.45 (H100, L4) or 0.35 (MI300X, T4). The
// L4 holds weights in FP8 and the T4 in 4 bits, with embeddings in 16.
var classes = []Hardware{
	{"h100", bf16, 0.8 * 3.35e12, 0.45 * 989e12, 2e-3, 450_000, 8192},
	{"mi300x", bf16, 0.7 * 5.3e12, 0.35 * 1307e12, 3e-3, 1_270_000, 8192},
	{"half-h100", bf16, 0.8 * 3.35e12 / 2, 0.45 * 989e12 / 2, 2e-3, 157_000, 2048},
	{"a100", bf16, 0.8 * 2.039e12, 0.5 * 312e12, 2e-3, 450_000, 2048},
	{"l4", 8.5e9, 0.8 * 300e9, 0.45 * 242e12, 2e-3, 85_000, 2048},
	{"t4", 5.7e9, 0.7 * 320e9, 0.35 * 65e12, 3e-3, 50_000, 2048},
}

// Classes returns the known hardware.
func Classes() []Hardware { return slices.Clone(classes) }

// Class returns the hardware of a name; false when it is not known.
func Class(name string) (Hardware, bool) {
	i := slices.IndexFunc(classes, func(h Hardware) bool { return h.Class == name })
	if i < 0 {
		return Hardware{}, false
	}
	return classes[i], true
}

// work is what one step has to do.
type work struct {
	tokens    int // computed, of prompts and of answers
	sequences int
	context   int // tokens that decoding sequences read from the KV cache
	// pairs is the tokens before it, summed over the prompt tokens.
	pairs float64
}

// seconds is how long a step takes: the weights are read once, while the matrices
// are computed, and whichever is slower counts.
func (h Hardware) seconds(w work) float64 {
	return h.Overhead +
		max(h.Weights/h.Bandwidth, float64(w.tokens)*tokenFLOP/h.FLOPS) +
		float64(w.sequences)*perSequence +
		float64(w.context)*kvBytes/h.Bandwidth +
		w.pairs*pairFLOP/h.FLOPS
}

// Prefill is the time of the fresh tokens at the end of a prompt, alone and without
// overhead.
func (h Hardware) Prefill(fresh, prompt int) time.Duration {
	pairs := float64(fresh) * (float64(prompt) - float64(fresh)/2)
	return time.Duration((float64(fresh)*tokenFLOP + pairs*pairFLOP) / h.FLOPS * float64(time.Second))
}

// Truth is what a measurement from outside has to find: the seconds of a prompt's token
// and by how much each before it makes it dearer, as a part of it; and of a step with no
// sequence, and for each sequence and each token in the cache.
type Truth struct{ Prefill, Growth, Step, Sequence, Token float64 }

// Truth returns what the hardware computes with. It holds where steps read more of the
// memory than they compute, and prompts compute more than they read.
func (h Hardware) Truth() Truth {
	return Truth{
		Prefill: tokenFLOP / h.FLOPS, Growth: pairFLOP / tokenFLOP,
		Step: h.Overhead + h.Weights/h.Bandwidth, Sequence: perSequence, Token: kvBytes / h.Bandwidth,
	}
}
