package snapshots

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"aliquot.example/internal/compiled"
)

// maxList bounds what is read of a peer's list of keys, in bytes.
const maxList = 64 << 10

// Of lists the snapshots of a job that are here or at a peer, by their keys, and reports
// whether some are not here.
func (s *Cache) Of(ctx context.Context, scope string) (keys []string, missing bool) {
	keys = s.keys(scope)
	here := len(keys)
	if s.Peers != nil {
		var mu sync.Mutex
		s.each(func(peer string) {
			more, err := s.keysOf(ctx, peer, scope)
			if err != nil {
				s.Log.Debug("cannot list a peer's snapshots", "peer", peer, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			keys = append(keys, more...)
		})
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	return keys, len(keys) > here
}

// Fetch copies the snapshots that are not here from peers.
func (s *Cache) Fetch(ctx context.Context, keys []string) (err error) {
	for _, key := range keys {
		f, failed := s.open(ctx, key)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("snapshot %s: %w", key, failed))
			continue
		}
		f.Close()
	}
	return err
}

// scopeOf is the scope of a snapshot that is here, "" where it says none.
func (s *Cache) scopeOf(key string) string {
	text, err := os.ReadFile(filepath.Join(s.Store.Dir(), "views", View(key), scopeFile))
	if err != nil {
		return ""
	}
	return string(text)
}

// keys lists the snapshots of a job that are here.
func (s *Cache) keys(scope string) []string {
	keys := []string{}
	for _, name := range s.Store.Views() {
		key, ok := strings.CutPrefix(name, views)
		if ok && len(keys) < maxPerScope && s.scopeOf(key) == url.PathEscape(scope) {
			keys = append(keys, key)
		}
	}
	return keys
}

// keysOf asks a peer for its snapshots of a job.
func (s *Cache) keysOf(ctx context.Context, peer, scope string) (keys []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	res, err := s.ask(ctx, http.MethodGet, peer, "?scope="+url.QueryEscape(scope))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxList)).Decode(&keys); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(keys, func(k string) bool { return !compiled.IsSum(k) }), nil
}

// list answers which snapshots of a job are here.
func (s *Cache) list(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.keys(r.URL.Query().Get("scope")))
}

// bounded writes within the rate limit for peers.
type bounded struct {
	http.ResponseWriter
	ctx  context.Context
	sent func(ctx context.Context, n int) error
}

func (b bounded) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), 64<<10)]
		if err := b.sent(b.ctx, len(piece)); err != nil {
			return n, err
		}
		wrote, err := b.ResponseWriter.Write(piece)
		if n += wrote; err != nil {
			return n, err
		}
		p = p[len(piece):]
	}
	return n, nil
}
