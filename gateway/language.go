package gateway

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/engine"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/prompt"
)

// language is the state of a service whose work is counted in tokens.
type language struct {
	key          prompt.Key
	shared       *line.Shared // its key replaces key; nil if this gateway does not share its queues
	objective    dispatch.SLO
	e2e          time.Duration // objective for the whole answer, 0 for none
	promised     int           // the least urgent priority with the objective
	countsTokens bool          // the line counts tokens in progress
	// longest is the longest prompt, in tokens, that some replica takes, 0 if any replica's is
	// unknown.
	longest atomic.Int64
	scraper *engine.Scraper // nil if engines are not scraped
	series  tokenSeries

	mu      sync.Mutex
	learned prompt.Learned
	engines map[string]engineReport // by ID, for each present replica
}

// newLanguage returns nil for a service whose work is not counted in tokens.
func newLanguage(v *service) *language {
	c := &v.config
	if !c.Language() {
		return nil
	}
	l := &language{objective: c.SLO, e2e: c.E2E, promised: c.Promised, countsTokens: c.Mode == dispatch.Tokens,
		engines: map[string]engineReport{}}
	l.shared, _ = v.line.(*line.Shared)
	for i := range l.key {
		var random [8]byte
		rand.Read(random[:])
		l.key[i] = binary.LittleEndian.Uint64(random[:])
	}
	if c.Mode == dispatch.Tokens && c.Engine.Metrics != "off" {
		path := c.Engine.Metrics
		if path == "auto" {
			path = ""
		}
		l.scraper = engine.New(engine.Options{
			Client: v.transports.to(false, true), Scheme: v.transports.scheme, Path: path, Port: c.Engine.Port,
			Interval: c.Engine.Interval,
			Set:      func(r []line.Replica) { l.set(v, r) },
			Observed: func(id string, s engine.State) { l.observed(v, id, s) },
		})
	}
	return l
}

// watch passes the replicas of a service to its line, with what their engines report.
func (s *Server) watch(ctx context.Context, v *service) {
	set := v.line.Set
	if l := v.language; l != nil {
		set = func(r []line.Replica) { l.set(v, r) }
		if l.scraper != nil {
			set = func(r []line.Replica) { l.scraper.Replace(ctx, r) }
		}
	}
	if v.sleepers != nil {
		v.sleepers.next = set
		set = v.sleepers.replace
	}
	v.source.Watch(ctx, set)
}

// set passes replicas to the line. For values that a replica does not report, it uses the
// configuration.
func (l *language) set(v *service, replicas []line.Replica) {
	c := &v.config.Engine
	longest, known := 0, true
	out := make([]line.Replica, len(replicas))
	present := make(map[string]bool, len(replicas))
	for i, r := range replicas {
		if r.KV == 0 {
			r.KV = c.KVTokens
		}
		if r.MaxPrompt == 0 {
			r.MaxPrompt = c.MaxPrompt
		}
		takes := r.MaxPrompt
		if takes == 0 || r.KV > 0 && r.KV < takes {
			takes = r.KV
		}
		longest, known = max(longest, takes), known && takes > 0
		out[i], present[r.ID] = r, true
	}
	if !known {
		longest = 0
	}
	l.longest.Store(int64(longest))
	l.mu.Lock()
	for id := range l.engines {
		if !present[id] {
			delete(l.engines, id)
		}
	}
	for id := range present {
		if _, known := l.engines[id]; !known {
			l.engines[id] = engineReport{}
		}
	}
	l.mu.Unlock()
	v.line.Set(out)
}

func (l *language) observed(v *service, id string, s engine.State) {
	l.mu.Lock()
	_, present := l.engines[id]
	if present {
		l.engines[id] = engineReport{s, time.Now()}
	}
	l.mu.Unlock()
	if !present {
		return // the replica has left meanwhile
	}
	v.line.Observe(id, dispatch.EngineState{Running: max(s.Running, 0), Waiting: max(s.Waiting, 0),
		KVUsed: max(s.KVUsed, 0)})
}

// maxSized is the largest part of a body, in bytes, that is read to size it: a million tokens
// of text, or several pictures.
const maxSized = 8 << 20

// size determines the work of a request. It keeps none of its text. If it cannot read the whole
// prompt, it assumes that the rest continues the earlier requests of the session.
func (l *language) size(x *exchange, tenant string) prompt.Size {
	c, key := &x.service.config, l.key
	if l.shared != nil {
		key = l.shared.Salt()
	}
	if c.Engine.Salt {
		key = key.For(tenant)
	}
	s, whole := l.readBody(x, key)
	if session := x.in.Header.Get(c.Session); !whole && session != "" && l.countsTokens && isPrompt(x.in) {
		s.Follow(tenant+"\x00"+session[:min(len(session), maxSessionKey)], key)
	}
	return s
}

// maxSessionKey is the number of bytes of a session's name that count.
const maxSessionKey = 256

// isPrompt reports whether the body of a request is a prompt, by its path or its media type.
func isPrompt(r *http.Request) bool {
	if api := prompt.Of(r.URL.Path); api != prompt.Opaque {
		return api.Generates()
	}
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return r.Method == http.MethodPost && strings.EqualFold(strings.TrimSpace(kind), "application/json")
}

// readBody sizes a body and reports whether all of it was read and understood.
func (l *language) readBody(x *exchange, key prompt.Key) (s prompt.Size, whole bool) {
	api := prompt.Opaque
	if x.in.Method == http.MethodPost && x.body != nil && !x.grpc && plainCoding(x.in.Header) {
		api = prompt.Of(x.in.URL.Path)
	}
	if x.body == nil {
		return prompt.Size{Answers: 1}, true
	}
	length := max(x.in.ContentLength, x.body.Size())
	if api == prompt.Opaque {
		return prompt.Read(api, nil, length, key), false
	}
	read := 0
	x.body.Text(maxSized, func(text []byte) { // may be only the first part of the body
		s, read = prompt.Read(api, text, length, key), len(text)
	})
	return s, x.body.Whole() && int64(read) >= length && s.API != prompt.Opaque
}

// plainCoding reports whether a body is not compressed.
func plainCoding(h http.Header) bool {
	coding := strings.Join(h.Values("Content-Encoding"), ", ")
	return coding == "" || strings.EqualFold(coding, "identity")
}

// estimate converts a size to tokens. It limits prompt and answer to the longest prompt that a
// replica takes: estimates can be wrong, and the engine itself refuses a prompt that is too long.
func (l *language) estimate(s *prompt.Size) (tokens, output int) {
	l.mu.Lock()
	tokens, output = int(l.learned.Prompt(s)), int(l.learned.Output(s))
	l.mu.Unlock()
	if longest := l.longest.Load(); longest > 0 {
		tokens, output = min(tokens, int(longest)), min(output, int(longest*s.Answers))
	}
	return tokens, max(output, 1)
}

// began, progress and settle report the tokens of a request to the line, if it counts tokens in
// progress.
func (l *language) began(x *exchange) {
	if l.countsTokens {
		x.service.line.Began(&x.pass)
	}
}

func (l *language) progress(x *exchange, tokens int) {
	if l.countsTokens {
		x.service.line.Progress(&x.pass, tokens)
	}
}

func (l *language) settle(x *exchange, prompt, cached, output int) {
	if l.countsTokens {
		x.service.line.Settle(&x.pass, prompt, cached, output)
	}
}

func (l *language) learn(s *prompt.Size, prompt, output int64) {
	l.mu.Lock()
	l.learned.Observe(s, prompt, output)
	l.mu.Unlock()
}
