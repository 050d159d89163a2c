package prompt

import "math/bits"

// bytesPerToken is the approximate length of a token of English text.
const bytesPerToken = 4

// Learned is what the answers of one service have shown about its tokens. The zero value has no
// samples and returns estimates. It is not safe for concurrent use.
type Learned struct {
	text  mean // tokens per bytesPerToken bytes of text
	media mean // tokens per image, sound or file
	// outputs are the tokens of an answer, by the class of the limit in the request: clients that
	// ask for five tokens and those that ask for thousands do different things. all is the mean of
	// all answers.
	outputs [18]mean
	all     mean
}

// mean is an exponentially weighted mean whose first samples count in full.
type mean struct{ value, samples float64 }

// memory is the number of samples that a mean remembers.
const memory = 500

func (m *mean) add(v float64) {
	m.samples = min(m.samples+1, memory)
	m.value += (v - m.value) / m.samples
}

func (m *mean) or(otherwise float64) float64 {
	// The first samples count less than the assumption, so that one odd answer does not decide.
	// Four samples count as much as the assumption.
	const trust = 4 * 4
	weight := m.samples * m.samples
	return (m.value*weight + otherwise*trust) / (weight + trust)
}

// Prompt estimates the number of tokens in a prompt.
func (l *Learned) Prompt(s *Size) float64 {
	text := float64(s.Text) / bytesPerToken * l.text.or(1)
	return max(1, text+float64(s.IDs)+float64(s.Media)*l.media.or(mediaTokens))
}

// usualOutput is the assumed length of an answer before any was seen.
const usualOutput = 200

// Output estimates the total number of tokens in all answers to a request.
func (l *Learned) Output(s *Size) float64 {
	switch {
	case !s.API.Generates():
		return 0
	case s.Exact:
		return float64(min(s.Limit, maxOutput) * s.Answers)
	}
	one := l.outputs[limitClass(s.Limit)].or(l.all.or(usualOutput))
	if s.Limit > 0 {
		one = min(one, float64(s.Limit))
	}
	return one * float64(s.Answers)
}

// limitClass groups limits by powers of two; 0 means no limit.
func limitClass(limit int64) int { return min(bits.Len64(uint64(limit)), len(Learned{}.outputs)-1) }

// Observe learns from an answer that reported its usage: prompt and output tokens, negative if
// unknown.
func (l *Learned) Observe(s *Size, prompt, output int64) {
	if prompt > 0 && s.API != Opaque { // its bytes may be compressed or not be text
		l.observePrompt(s, float64(prompt)-float64(s.IDs))
	}
	if output >= 0 && s.API.Generates() && !s.Exact {
		one := min(float64(output)/float64(max(s.Answers, 1)), maxOutput)
		l.outputs[limitClass(s.Limit)].add(one)
		l.all.add(one)
	}
}

// maxOutput limits one sample: no model generates more in one answer.
const maxOutput = 1 << 20

// The bounds of a learned ratio: a server that counts wrongly must not make requests weightless.
const (
	minRatio, maxRatio = 0.1, 8
	maxMedia           = 65536
)

func (l *Learned) observePrompt(s *Size, tokens float64) {
	expected := float64(s.Text) / bytesPerToken
	switch {
	case s.Media > 0:
		rest := (tokens - expected*l.text.or(1)) / float64(s.Media)
		l.media.add(min(max(rest, 1), maxMedia))
	case expected >= 16: // most of a short prompt is the template
		l.text.add(min(max(tokens/expected, minRatio), maxRatio))
	}
}
