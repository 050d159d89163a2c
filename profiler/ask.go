package profiler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"aliquot.example/internal/profile"
)

// form is the variant of a completion request. Servers differ in what they accept.
type form struct {
	chat   bool
	forced bool // request exactly max_tokens, with the parameters of vLLM, SGLang and others
}

func (f form) path() string {
	if f.chat {
		return "/v1/chat/completions"
	}
	return "/v1/completions"
}

// body returns a request with output as its token limit.
func (f form) body(model, prompt string, output int) ([]byte, error) {
	r := map[string]any{
		"model": model, "max_tokens": output, "stream": true, "temperature": 0,
		"stream_options": map[string]any{"include_usage": true},
	}
	if f.chat {
		r["messages"] = []map[string]string{{"role": "user", "content": prompt}}
	} else {
		r["prompt"] = prompt
	}
	if f.forced {
		r["ignore_eos"], r["min_tokens"] = true, output
	}
	return json.Marshal(r)
}

// exchange sends a request and reads its response. It gives up after Server.Stall without a byte.
// Times count from began.
type exchange struct {
	server *Server
	began  time.Time
	answer profile.Answer
}

func (e *exchange) now() float64 { return time.Since(e.began).Seconds() }

// run sends the request and calls read for its response.
func (e *exchange) run(ctx context.Context, path string, body []byte, read func(io.Reader) error) error {
	stalled := errors.New("stalled")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(e.server.Stall, func() { cancel(stalled) })
	defer timer.Stop()
	r, err := e.server.request(ctx, http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	e.answer.Sent = e.now()
	res, err := e.server.HTTP.Do(r)
	if err == nil {
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return refusal(res)
		}
		err = read(&watched{res.Body, func() { timer.Reset(e.server.Stall) }})
	}
	e.answer.End = e.now()
	var known *Fault
	switch {
	case err == nil:
		return nil
	case context.Cause(ctx) == stalled:
		return &Fault{Kind: Stalled, Detail: fmt.Sprintf("the server sent nothing for %s after %d pieces of a response",
			e.server.Stall, len(e.answer.Tokens))}
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &known):
		return known
	case res != nil:
		return &Fault{Kind: Cut, Detail: fmt.Sprintf("a response ended early after %d pieces: %v", len(e.answer.Tokens),
			plain(err))}
	}
	return &Fault{Kind: Failed, Detail: plain(err).Error()}
}

// watched calls some after each read that returns data.
type watched struct {
	io.Reader
	some func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.some()
	}
	return n, err
}

// complete requests a completion of up to output tokens.
func (s *Server) complete(ctx context.Context, began time.Time, f form, model, prompt string,
	output int) (profile.Answer, error) {
	e := exchange{server: s, began: began, answer: profile.Answer{Asked: output, Prompt: -1, Output: -1, Total: -1,
		Cached: -1}}
	body, err := f.body(model, prompt, output)
	if err != nil {
		return e.answer, err
	}
	err = e.run(ctx, f.path(), body, func(r io.Reader) error {
		return readStream(r, &e.answer, e.now)
	})
	if err == nil && len(e.answer.Tokens) == 0 {
		err = &Fault{Kind: Failed, Detail: "an answer without any text"}
	}
	return e.answer, err
}

// post sends a given request. The time of the first byte counts as the first token.
func (s *Server) post(ctx context.Context, began time.Time, path string, body []byte) (profile.Answer, error) {
	e := exchange{server: s, began: began, answer: profile.Answer{Prompt: -1, Output: -1, Total: -1, Cached: -1}}
	err := e.run(ctx, path, body, func(r io.Reader) error {
		buffer := make([]byte, 32<<10)
		for {
			n, err := r.Read(buffer)
			if n > 0 && len(e.answer.Tokens) == 0 {
				e.answer.Tokens = append(e.answer.Tokens, e.now())
			}
			switch {
			case err == io.EOF:
				if len(e.answer.Tokens) == 0 {
					e.answer.Tokens = append(e.answer.Tokens, e.now())
				}
				return nil
			case err != nil:
				return err
			}
		}
	})
	return e.answer, err
}
