package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"aliquot.example/gateway/line"
)

// Options say how engines are asked.
type Options struct {
	// Client asks; its transport is that of the service's requests.
	Client http.RoundTripper
	Scheme string
	// Path of the metrics; "" tries the usual ones.
	Path string
	// Port of the metrics, 0 for that of the replica.
	Port int
	// Interval is the mean time between two questions to one replica.
	Interval time.Duration
	// Set is given the replicas with what was learned of them.
	Set func([]line.Replica)
	// Observed is given every state that a replica's engine told.
	Observed func(id string, s State)
}

const (
	// longest bounds one question.
	longest = 5 * time.Second
	// mostBytes bounds an answer.
	mostBytes = 8 << 20
	// rest is the time between questions to a replica that has no metrics.
	rest = time.Minute
)

// usual are the paths under which engines offer metrics.
var usual = []string{"/metrics", "/prometheus/metrics"}

// Scraper asks the engines of one service's replicas, at most one question to each
// at a time.
type Scraper struct {
	options Options

	mu       sync.Mutex
	replicas []line.Replica
	running  map[string]*visit
}

// Interval is the mean time between two questions to one replica.
func (s *Scraper) Interval() time.Duration { return s.options.Interval }

// visit is the questions to one replica.
type visit struct {
	replica line.Replica
	stop    context.CancelFunc
	path    int  // index of the path that answered, in usual
	told    bool // the engine was asked for its limit since it was last out of reach

	// Under Scraper.mu, in tokens; 0 until known.
	kv, longest int
}

// New returns a scraper without replicas.
func New(o Options) *Scraper {
	return &Scraper{options: o, running: map[string]*visit{}}
}

// Replace makes the given replicas the ones that are asked, until ctx ends, and
// passes them on.
func (s *Scraper) Replace(ctx context.Context, replicas []line.Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas = replicas
	keep := make(map[string]bool, len(replicas))
	for _, r := range replicas {
		keep[r.ID] = true
		if v := s.running[r.ID]; v != nil && v.replica.Address == r.Address {
			continue
		} else if v != nil {
			v.stop()
		}
		asking, stop := context.WithCancel(ctx)
		v := &visit{replica: r, stop: stop}
		s.running[r.ID] = v
		go s.visit(asking, v)
	}
	for id, v := range s.running {
		if !keep[id] {
			v.stop()
			delete(s.running, id)
		}
	}
	s.pass()
}

// pass gives the replicas with what is known of them; under mu, so that an older
// list never follows a newer one.
func (s *Scraper) pass() {
	out := make([]line.Replica, len(s.replicas))
	for i, r := range s.replicas {
		if v := s.running[r.ID]; v != nil {
			// The engine knows better than the job that describes it.
			if v.kv > 0 {
				r.KV = v.kv
			}
			if v.longest > 0 {
				r.MaxPrompt = v.longest
			}
		}
		out[i] = r
	}
	s.options.Set(out)
}

// visit asks one replica until ctx ends.
func (s *Scraper) visit(ctx context.Context, v *visit) {
	// The first questions to many replicas are spread, but soon.
	if !sleep(ctx, rand.N(min(s.options.Interval, time.Second))) {
		return
	}
	for misses := 0; ; {
		state, err := s.ask(ctx, v)
		wait := s.options.Interval
		if err != nil || state.Kind == "" {
			v.told = false
			if misses++; misses >= len(usual) {
				wait = min(rest, s.options.Interval<<min(misses, 8))
			}
		} else {
			misses = 0
			s.learn(ctx, v, state)
		}
		if !sleep(ctx, wait-wait/10+rand.N(wait/5+1)) {
			return
		}
	}
}

// learn takes over a state.
func (s *Scraper) learn(ctx context.Context, v *visit, state State) {
	limit := 0
	if !v.told {
		v.told = true
		limit = s.longestPrompt(ctx, v)
	}
	s.mu.Lock()
	changed := false
	if state.KVTokens > 0 && state.KVTokens != v.kv {
		v.kv, changed = state.KVTokens, true
	}
	if limit > 0 && limit != v.longest {
		v.longest, changed = limit, true
	}
	if changed && ctx.Err() == nil {
		s.pass()
	}
	s.mu.Unlock()
	if ctx.Err() == nil {
		s.options.Observed(v.replica.ID, state)
	}
}

// ask asks for the metrics.
func (s *Scraper) ask(ctx context.Context, v *visit) (State, error) {
	path := s.options.Path
	if path == "" {
		path = usual[v.path%len(usual)]
	}
	address := v.replica.Address
	if s.options.Port > 0 {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return State{}, err
		}
		address = net.JoinHostPort(host, strconv.Itoa(s.options.Port))
	}
	var state State
	err := s.get(ctx, address, path, func(body io.Reader) (err error) {
		state, err = Parse(body)
		return err
	})
	if err != nil || state.Kind == "" {
		v.path++ // the next question goes to the other one
	}
	return state, err
}

// longestPrompt asks for the limit that vLLM and SGLang tell in their list of models;
// 0 when there is none.
func (s *Scraper) longestPrompt(ctx context.Context, v *visit) int {
	var list struct {
		Data []struct {
			Limit int `json:"max_model_len"`
		} `json:"data"`
	}
	err := s.get(ctx, v.replica.Address, "/v1/models", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&list)
	})
	if err != nil {
		return 0
	}
	limit := 0
	for _, m := range list.Data {
		limit = max(limit, m.Limit)
	}
	return limit
}

// get reads a page of a replica.
func (s *Scraper) get(ctx context.Context, address, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.options.Scheme+"://"+address+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "aliquot-gateway")
	res, err := s.options.Client.RoundTrip(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, res.Status)
	}
	return read(&bounded{res.Body, mostBytes + 1})
}

// bounded fails where an answer has as many bytes as are left: of a longer answer than is
// read only a part would be understood.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the answer is longer than %d MiB", mostBytes>>20)
	}
	n, err := b.from.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// sleep waits and reports whether ctx lasted.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
