package profile

import "slices"

// Wave is what requests sent at the same moment show of a server.
type Wave struct {
	First []float64 // time to first token of each request, in seconds
	Pace  []float64 // mean time between two tokens of each request, in seconds
	// Prompt is the mean tokens per prompt.
	Prompt float64
	// Step is the seconds per token while all responses were decoding and no prompt was being read,
	// with KV tokens in the cache. It is 0 if there was no such time.
	Step, KV float64
	// Written is the output tokens of all responses, and Took the seconds from the first request to
	// the last token.
	Written, Took float64
}

// minSteps is the minimum number of pieces of each response for a step time.
const minSteps = 8

// WaveOf evaluates the responses to requests sent at the same moment. Each must have tokens.
func WaveOf(answers []Answer) Wave {
	var w Wave
	began, ended := 0.0, 0.0 // when the last response began and the first one ended
	for i := range answers {
		a := &answers[i]
		last := a.Tokens[len(a.Tokens)-1]
		began = max(began, a.Tokens[0])
		if i == 0 || last < ended {
			ended = last
		}
		w.First = append(w.First, a.First())
		if p := a.Pace(); p > 0 {
			w.Pace = append(w.Pace, p)
		}
		w.Prompt += float64(max(a.Prompt, 0)) / float64(len(answers))
		w.Written += float64(a.Made())
		w.Took = max(w.Took, last-a.Sent)
	}
	w.Step, w.KV = jointPace(answers, began, ended)
	return w
}

// jointPace returns the median over the responses of the time per token between two moments, and the
// tokens in the cache halfway.
func jointPace(answers []Answer, began, ended float64) (step, kv float64) {
	var steps []float64
	for i := range answers {
		a := &answers[i]
		from, _ := slices.BinarySearch(a.Tokens, began)
		to, found := slices.BinarySearch(a.Tokens, ended)
		if !found {
			to--
		}
		if to-from < minSteps {
			return 0, 0
		}
		steps = append(steps, (a.Tokens[to]-a.Tokens[from])/(float64(to-from)*a.perPiece()))
		kv += float64(max(a.Prompt, 0)) + float64(from+to+1)/2*a.perPiece()
	}
	return Quantile(steps, 0.5), kv
}
