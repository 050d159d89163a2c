package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"aliquot.example/e2e/modelserver/engine"
)

// handle returns a handler for a function that serves one request and returns the HTTP status to
// count.
func (s *server) handle(serve func(http.ResponseWriter, *http.Request) int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		code := serve(w, r)
		s.metrics.requests.WithLabelValues(fmt.Sprint(code)).Inc()
		s.metrics.seconds.Observe(time.Since(start).Seconds())
	}
}

// clientGone is the status under which requests whose client left are counted.
const clientGone = 499

// enter must be called for every request before its body is read. It rejects requests that cannot
// be served.
func (s *server) enter(w http.ResponseWriter) (*state, int) {
	state := s.state.Load()
	if reason := state.unready(); reason != "" {
		refuse(w, http.StatusServiceUnavailable, "server_error", errors.New(reason))
		return nil, http.StatusServiceUnavailable
	}
	if err := s.sleepMode.use(); err != nil {
		refuse(w, http.StatusInternalServerError, "server_error", err)
		return nil, http.StatusInternalServerError
	}
	s.saver.used()
	return state, 0
}

// accept passes a job to the backend, or rejects its request.
func (s *server) accept(w http.ResponseWriter, r *http.Request, state *state, j job) (*work, int) {
	work, err := state.backend.accept(r.Context(), j)
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "server_error", err)
		return nil, http.StatusServiceUnavailable
	case errors.Is(err, engine.ErrTooLong):
		refuse(w, http.StatusBadRequest, "BadRequestError", err)
		return nil, http.StatusBadRequest
	case err != nil:
		return nil, clientGone
	}
	return work, 0
}

// complete serves one completion, plain or streamed.
func (s *server) complete(chat bool) http.HandlerFunc {
	return s.handle(func(w http.ResponseWriter, r *http.Request) int { return s.serve(w, r, chat) })
}

func (s *server) serve(w http.ResponseWriter, r *http.Request, chat bool) int {
	state, code := s.enter(w)
	if code != 0 {
		return code
	}
	req, tokens, err := decode(w, r, chat)
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request_error", err)
		return http.StatusBadRequest
	}
	j := req.job(tokens)
	work, code := s.accept(w, r, state, j)
	if code != 0 {
		return code
	}
	defer work.end()

	out := writer{
		w: w, chat: chat, model: s.model, fingerprint: state.hw.Fingerprint(), id: s.nextID(chat),
		reason: "length", batching: s.options.engine != "",
	}
	if j.output < tokens {
		out.reason = "stop"
	}
	total := func(made int) usage { return s.usage(j, made, work) }
	each := func(i int) error { s.metrics.tokens.Inc(); return nil }
	if req.Stream {
		out.begin()
		if req.StreamOptions.ContinuousUsage {
			out.sofar = total
		}
		each = func(i int) error { s.metrics.tokens.Inc(); return out.chunk(i, i == j.output-1) }
	}
	if err := work.run(r.Context(), each); err != nil {
		return clientGone
	}
	if req.Stream {
		err = out.end(req.StreamOptions.IncludeUsage, total(j.output))
	} else {
		err = out.whole(j.output, total(j.output))
	}
	if err != nil {
		return clientGone
	}
	return http.StatusOK
}

// usage returns the usage of an answer of made tokens. A server that batches also reports the
// cached prompt tokens, as vLLM does with --enable-prompt-tokens-details.
func (s *server) usage(j job, made int, w *work) usage {
	u := usage{PromptTokens: j.prompt, CompletionTokens: made, TotalTokens: j.prompt + made}
	if s.options.engine != "" {
		u.Details = &promptDetails{Cached: w.cached()}
	}
	return u
}

var ids atomic.Uint64

func (s *server) nextID(chat bool) string {
	prefix := "cmpl-"
	if chat {
		prefix = "chatcmpl-"
	}
	return fmt.Sprintf("%s%d", prefix, ids.Add(1))
}

// writer writes an answer in the format that the client requested.
type writer struct {
	w                      http.ResponseWriter
	chat                   bool
	model, fingerprint, id string
	reason                 string // why the answer ends
	// batching makes the stream like vLLM's: the headers are sent at once, and the first chunk of a
	// chat has the role and no text.
	batching bool
	sofar    func(made int) usage // for every chunk; nil for none
}

func (o writer) answer(object string, c ...choice) answer {
	return answer{ID: o.id, Object: object, Created: time.Now().Unix(), Model: o.model, Fingerprint: o.fingerprint,
		Choices: c}
}

func (o writer) begin() {
	o.w.Header().Set("Content-Type", "text/event-stream")
	o.w.Header().Set("Cache-Control", "no-cache")
	o.w.WriteHeader(http.StatusOK)
	if o.batching {
		_ = http.NewResponseController(o.w).Flush()
	}
}

// chunk writes token i as one server-sent event.
func (o writer) chunk(i int, last bool) error {
	content := word(i)
	role := o.chat && i == 0
	if role && o.batching {
		if err := o.event(o.answer("chat.completion.chunk", choice{Delta: &spoken{Role: "assistant"}})); err != nil {
			return err
		}
		role = false
	}
	c, object := choice{Text: &content}, "text_completion"
	if o.chat {
		c, object = choice{Delta: &spoken{Content: content}}, "chat.completion.chunk"
		if role {
			c.Delta.Role = "assistant"
		}
	}
	if last {
		c.FinishReason = &o.reason
	}
	a := o.answer(object, c)
	if o.sofar != nil {
		u := o.sofar(i + 1)
		a.Usage = &u
	}
	return o.event(a)
}

// end closes a stream.
func (o writer) end(withUsage bool, total usage) error {
	if withUsage {
		object := "text_completion"
		if o.chat {
			object = "chat.completion.chunk"
		}
		a := o.answer(object)
		a.Choices, a.Usage = []choice{}, &total
		if err := o.event(a); err != nil {
			return err
		}
	}
	_, err := fmt.Fprint(o.w, "data: [DONE]\n\n")
	return err
}

func (o writer) event(a answer) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(o.w, "data: %s\n\n", body); err != nil {
		return err
	}
	return http.NewResponseController(o.w).Flush()
}

// whole writes an answer that is not streamed.
func (o writer) whole(tokens int, total usage) error {
	content := text(tokens)
	c, object := choice{Text: &content, FinishReason: &o.reason}, "text_completion"
	if o.chat {
		c, object = choice{Message: &spoken{Role: "assistant", Content: content}, FinishReason: &o.reason},
			"chat.completion"
	}
	a := o.answer(object, c)
	a.Usage = &total
	o.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(o.w).Encode(a)
}
