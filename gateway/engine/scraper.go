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

// Options configure a Scraper.
type Options struct {
	// Client is the transport of the service's requests.
	Client http.RoundTripper
	Scheme string
	// Path is the path of the metrics, "" to try the usual ones.
	Path string
	// Port is the port of the metrics, 0 for the replica's port.
	Port int
	// Interval is the mean time between two scrapes of one replica.
	Interval time.Duration
	// Set is called with the replicas, completed with what their engines report.
	Set func([]line.Replica)
	// Observed is called for each state that an engine reports.
	Observed func(id string, s State)
}

const (
	// scrapeTimeout is the timeout of one request.
	scrapeTimeout = 5 * time.Second
	// maxBody is the largest size of a response.
	maxBody = 8 << 20
	// idleInterval is the longest time between scrapes of a replica without metrics.
	idleInterval = time.Minute
)

// defaultPaths are the usual paths of metrics.
var defaultPaths = []string{"/metrics", "/prometheus/metrics"}

// Scraper scrapes the engines of one service's replicas, with at most one request to each at a time.
type Scraper struct {
	options Options

	mu       sync.Mutex
	replicas []line.Replica
	running  map[string]*visit
}

// Interval returns the mean time between two scrapes of one replica.
func (s *Scraper) Interval() time.Duration { return s.options.Interval }

// visit is the scraping of one replica.
type visit struct {
	replica   line.Replica
	stop      context.CancelFunc
	path      int  // index in defaultPaths of the path to use
	limitRead bool // the engine was asked for its limit since it was last unreachable

	// In tokens, 0 while unknown; guarded by Scraper.mu.
	kv, longest int
}

// New returns a scraper without replicas.
func New(o Options) *Scraper {
	return &Scraper{options: o, running: map[string]*visit{}}
}

// Replace sets the replicas to scrape, until ctx ends, and passes them to Set.
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

// pass calls Set with the replicas and what is known of them. The caller holds mu, so that an older
// list never follows a newer one.
func (s *Scraper) pass() {
	out := make([]line.Replica, len(s.replicas))
	for i, r := range s.replicas {
		if v := s.running[r.ID]; v != nil {
			// The engine's own values replace those of the job.
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

// visit scrapes one replica until ctx ends.
func (s *Scraper) visit(ctx context.Context, v *visit) {
	// Spread the first scrapes of many replicas over a short time.
	if !sleep(ctx, rand.N(min(s.options.Interval, time.Second))) {
		return
	}
	for misses := 0; ; {
		state, err := s.ask(ctx, v)
		wait := s.options.Interval
		if err != nil || state.Kind == "" {
			v.limitRead = false
			if misses++; misses >= len(defaultPaths) {
				wait = min(idleInterval, s.options.Interval<<min(misses, 8))
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

// learn processes a state.
func (s *Scraper) learn(ctx context.Context, v *visit, state State) {
	limit := 0
	if !v.limitRead {
		v.limitRead = true
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

// ask requests the metrics.
func (s *Scraper) ask(ctx context.Context, v *visit) (State, error) {
	path := s.options.Path
	if path == "" {
		path = defaultPaths[v.path%len(defaultPaths)]
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
		v.path++ // try the next path next time
	}
	return state, err
}

// longestPrompt returns the limit that vLLM and SGLang report in their list of models, 0 if there
// is none.
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

// get sends a GET request to a replica, and calls read with the body.
func (s *Scraper) get(ctx context.Context, address, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
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
	return read(&bounded{res.Body, maxBody + 1})
}

// bounded returns an error once left bytes have been read. Cutting the response off instead would
// make a part of it look complete.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the response is longer than %d MiB", maxBody>>20)
	}
	n, err := b.from.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// sleep waits for d. It returns false if ctx ends first.
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
