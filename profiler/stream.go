package profiler

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"aliquot.example/internal/profile"
)

// piece is the part of a stream's chunk that matters for its speed.
type piece struct {
	Choices []struct {
		Text  *string `json:"text"`
		Delta *struct {
			Content   *string `json:"content"`
			Reasoning *string `json:"reasoning_content"`
		} `json:"delta"`
		Reason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *usage          `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// usage is what a server counted. A missing count is nil.
type usage struct {
	Prompt  *int `json:"prompt_tokens"`
	Output  *int `json:"completion_tokens"`
	Total   *int `json:"total_tokens"`
	Details *struct {
		Cached *int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

// maxLine bounds a line of a stream, in bytes.
const maxLine = 1 << 20

// readStream reads server-sent events into an answer, with the time of each.
func readStream(r io.Reader, a *profile.Answer, now func() float64) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), maxLine)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		data = bytes.TrimSpace(data)
		if string(data) == "[DONE]" {
			return nil
		}
		var p piece
		if err := json.Unmarshal(data, &p); err != nil {
			return &Fault{Kind: Failed, Detail: fmt.Sprintf("a chunk of a stream is not valid JSON: %v", err)}
		}
		if err := p.into(a, now); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return &Fault{Kind: Failed, Detail: fmt.Sprintf("a line of a stream is longer than %d bytes", maxLine)}
	case err != nil:
		return err
	case a.Reason == "":
		return &Fault{Kind: Cut, Detail: fmt.Sprintf("a response ended early after %d pieces", len(a.Tokens))}
	}
	return nil
}

func (p *piece) into(a *profile.Answer, now func() float64) error {
	if len(p.Error) > 0 && string(p.Error) != "null" {
		return &Fault{Kind: Failed, Detail: "an error inside a stream: " + printable(message(p.Error))}
	}
	for _, c := range p.Choices {
		if filled(c.Text) || c.Delta != nil && (filled(c.Delta.Content) || filled(c.Delta.Reasoning)) {
			a.Tokens = append(a.Tokens, now())
		}
		if c.Reason != nil {
			a.Reason = *c.Reason
		}
	}
	p.Usage.into(a)
	return nil
}

// into copies the counts that the server reports and that are possible.
func (u *usage) into(a *profile.Answer) {
	if u != nil {
		for to, from := range map[*int]*int{&a.Prompt: u.Prompt, &a.Output: u.Output, &a.Total: u.Total} {
			if from != nil && *from >= 0 && *from <= 1<<30 {
				*to = *from
			}
		}
		if u.Details != nil && u.Details.Cached != nil {
			a.Cached = *u.Details.Cached
		}
	}
}

func filled(s *string) bool { return s != nil && *s != "" }
