package profile

import "slices"

// Wave is what requests that were sent at one moment say of a server.
type Wave struct {
	First []float64 // seconds to the first token of each
	Pace  []float64 // mean seconds between two tokens of each
	// Prompt is the mean tokens of a prompt.
	Prompt float64
	// Step is the seconds of a token while all were written and none was read, with KV
	// tokens in the cache; 0 where there was no such time.
	Step, KV float64
	// Written is the tokens of all answers, Took the seconds from the first request to
	// the last token.
	Written, Took float64
}

// leastSteps is how many steps of a wave say how long one takes.
const leastSteps = 8

// WaveOf reads answers to requests that were sent at one moment. All have tokens.
func WaveOf(answers []Answer) Wave {
	var w Wave
	began, ended := 0.0, 0.0 // when the last began and the first ended
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
	w.Step, w.KV = together(answers, began, ended)
	return w
}

// together is the time of a token between two moments, as half of the answers saw it at
// most, and the tokens in the cache halfway.
func together(answers []Answer, began, ended float64) (step, kv float64) {
	var steps []float64
	for i := range answers {
		a := &answers[i]
		from, _ := slices.BinarySearch(a.Tokens, began)
		to, found := slices.BinarySearch(a.Tokens, ended)
		if !found {
			to--
		}
		if to-from < leastSteps {
			return 0, 0
		}
		steps = append(steps, (a.Tokens[to]-a.Tokens[from])/(float64(to-from)*a.perPiece()))
		kv += float64(max(a.Prompt, 0)) + float64(from+to+1)/2*a.perPiece()
	}
	return Quantile(steps, 0.5), kv
}
