package profile

import "fmt"

// Answer is one streamed response as its client saw it. Times are in seconds since the run began.
// Counts that the server did not report are -1.
type Answer struct {
	Sent   float64
	Tokens []float64 // arrival of each piece with text
	End    float64

	Asked  int // limit of output tokens in the request
	Prompt int // usage.prompt_tokens
	Output int // usage.completion_tokens
	Total  int // usage.total_tokens
	Cached int // usage.prompt_tokens_details.cached_tokens
	// Reason is the finish reason, such as "length", or "" if the server did not give one.
	Reason string
}

// First returns the time to the first token, in seconds.
func (a *Answer) First() float64 { return a.Tokens[0] - a.Sent }

// Took returns the time to the end, in seconds.
func (a *Answer) Took() float64 { return a.End - a.Sent }

// Pace returns the mean time between two tokens, in seconds, or 0 if there are fewer than two
// pieces.
func (a *Answer) Pace() float64 {
	n := len(a.Tokens)
	if n < 2 {
		return 0
	}
	return (a.Tokens[n-1] - a.Tokens[0]) / (float64(n-1) * a.perPiece())
}

// perPiece returns the tokens per piece. Engines with speculative decoding, or that flush only now
// and then, put several tokens into one piece.
func (a *Answer) perPiece() float64 {
	if a.Output <= len(a.Tokens) {
		return 1
	}
	return float64(a.Output) / float64(len(a.Tokens))
}

// Made returns the number of tokens in the response: the server's count if it is possible,
// otherwise the number of pieces.
func (a *Answer) Made() int {
	if a.Output >= len(a.Tokens) && a.Output <= a.Asked {
		return a.Output
	}
	return len(a.Tokens)
}

// UsageProblem returns why the reported counts are impossible, "" if they are not.
func (a *Answer) UsageProblem() string {
	switch {
	case a.Output < 0:
		return ""
	case a.Output > a.Asked:
		return fmt.Sprintf("usage reports %d completion tokens, but the request allows at most %d", a.Output, a.Asked)
	case a.Output < len(a.Tokens):
		return fmt.Sprintf("usage reports %d completion tokens, but the response came in %d pieces",
			a.Output, len(a.Tokens))
	case a.Reason == "length" && a.Output != a.Asked:
		return fmt.Sprintf("usage reports %d completion tokens, but the response ended at its limit of %d",
			a.Output, a.Asked)
	case a.Prompt >= 0 && a.Total >= 0 && a.Prompt+a.Output != a.Total:
		return fmt.Sprintf("usage reports %d prompt tokens and %d completion tokens, but %d in total", a.Prompt,
			a.Output, a.Total)
	}
	return ""
}

// Scale converts between words and tokens as a server counts them: tokens = Base + PerWord * words.
type Scale struct{ Base, PerWord float64 }

// FitScale derives the scale from the words and tokens of three prompts of different length. It
// fails if no tokenizer can produce the counts.
func FitScale(words, tokens [3]int) (Scale, error) {
	per := float64(tokens[2]-tokens[0]) / float64(words[2]-words[0])
	s := Scale{Base: float64(tokens[0]) - per*float64(words[0]), PerWord: per}
	if !(per >= 0.2 && per <= 8) {
		return Scale{},
			fmt.Errorf("usage reports %d and %d tokens for prompts of %d and %d words: want 0.2 to 8 tokens per word",
				tokens[0], tokens[2], words[0], words[2])
	}
	if want := s.Base + s.PerWord*float64(words[1]); !(float64(tokens[1]) >= 0.9*want-4 &&
		float64(tokens[1]) <= 1.1*want+4) {
		return Scale{},
			fmt.Errorf("usage reports %d tokens for a prompt of %d words: prompts of %d and %d words imply %.0f",
				tokens[1], words[1], words[0], words[2], want)
	}
	return s, nil
}

// Words returns how many words make a prompt of about the given number of tokens, at least 1.
func (s Scale) Words(tokens int) int {
	return max(1, int((float64(tokens)-s.Base)/s.PerWord+0.5))
}
