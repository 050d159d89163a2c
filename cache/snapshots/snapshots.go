// Package snapshots stores the compile caches of model servers, and shares them with other nodes.
// internal/compiled defines the keys; here a key is the permanent name of one archive.
package snapshots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"aliquot.example/cache/store"
	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/compiled"
)

// Path is the prefix of snapshots' paths, on the socket and between caches; a key follows.
const Path = "/v1/compiled/"

const (
	// maxSnapshot is the most that a snapshot may have, in bytes.
	maxSnapshot = 16 << 30
	// askTimeout bounds a question to a peer whether it has a snapshot, maxAsks how many
	// are asked at the same time.
	askTimeout = 3 * time.Second
	maxAsks    = 32
	// archive is the one file of a snapshot's view, scopeFile says beside it whose it is.
	archive   = "snapshot.tar"
	scopeFile = ".scope"
	// maxScope bounds the name of a job with its namespace, in bytes.
	maxScope = 4096
	// maxPerScope is how many snapshots of one job a peer names.
	maxPerScope = 16
)

// Cache keeps snapshots in a store.
type Cache struct {
	Store *store.Store
	// Peers returns this node's address and all caches; nil if snapshots are not shared.
	Peers  func() (self string, all []string)
	Client *http.Client
	Log    *slog.Logger
	// Count counts a request by its result: here, peer, none or published.
	Count func(result string)
	// Sent counts bytes that are sent to a peer, and waits as the rate limit requires.
	Sent func(ctx context.Context, n int) error
	// Stall is how long a peer may send nothing of a snapshot; 0 for 30 s.
	Stall time.Duration
}

// The errors of a Cache.
var (
	errNone   = errors.New("no cache has this snapshot")
	errExists = errors.New("the snapshot already exists and is kept")
)

// View returns the name of a snapshot's view in the store.
func View(key string) string { return views + key }

// views is the prefix of the names of snapshots' views.
const views = "compiled-"

// openLocal opens a snapshot of this node; store.ErrAbsent without one.
func (s *Cache) openLocal(key string) (*store.File, error) {
	ids := s.Store.Objects(View(key))
	if len(ids) != 1 {
		return nil, store.ErrAbsent
	}
	return s.Store.Open(ids[0])
}

// open opens a snapshot of this node, or brings it from a peer.
func (s *Cache) open(ctx context.Context, key string) (*store.File, error) {
	f, err := s.openLocal(key)
	if err == nil {
		s.Count("here")
	}
	if !errors.Is(err, store.ErrAbsent) || s.Peers == nil {
		return f, err
	}
	for _, peer := range s.peersWith(ctx, key) {
		if err := s.copyFromPeer(ctx, peer, key); err != nil {
			s.Log.Warn("cannot copy a snapshot from a peer", "peer", peer, "key", key, "error", err)
			continue
		}
		s.Count("peer")
		return s.openLocal(key)
	}
	return nil, store.ErrAbsent
}

// peersWith asks all peers at once which of them have a snapshot.
func (s *Cache) peersWith(ctx context.Context, key string) (have []string) {
	var mu sync.Mutex
	s.each(func(peer string) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		if res, err := s.ask(ctx, http.MethodHead, peer, key); err == nil {
			res.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			have = append(have, peer)
		}
	})
	slices.Sort(have)
	return have
}

// each does something with all peers, many at once.
func (s *Cache) each(do func(peer string)) {
	self, all := s.Peers()
	var group errgroup.Group
	group.SetLimit(maxAsks)
	for _, peer := range all {
		if peer != self {
			group.Go(func() error { do(peer); return nil })
		}
	}
	_ = group.Wait()
}

func (s *Cache) ask(ctx context.Context, method, peer, key string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://"+peer+Path+key, nil)
	if err != nil {
		return nil, err
	}
	res, err := s.Client.Do(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("the peer answers %s", res.Status)
	}
	return res, nil
}

// put makes an archive of size bytes the snapshot of a key; want is the ID that it must
// have, "" for any.
func (s *Cache) put(key, scope string, r io.Reader, size int64, want string) error {
	if s.Store.View(View(key)) != "" {
		return errExists
	}
	if len(scope) > maxScope {
		return errors.New("the scope is too long")
	}
	if size <= 0 || size > maxSnapshot {
		return fmt.Errorf("the snapshot has %d bytes: want 1 to %d", size, int64(maxSnapshot))
	}
	o, err := s.Store.Adopt(r, size)
	if err != nil {
		return err
	}
	if want != "" && want != o.ID {
		return fmt.Errorf("the snapshot has the digest %s: want %s", o.ID, want)
	}
	_, err = s.Store.Publish(store.View{Name: View(key), Objects: map[string]string{archive: o.ID},
		Texts: map[string]string{scopeFile: scope}})
	return err
}

// Local answers the node's programs: GET looks at the peers too, PUT publishes.
func (s *Cache) Local(mux *http.ServeMux) {
	mux.HandleFunc("GET "+Path+"{key}", func(w http.ResponseWriter, r *http.Request) { s.get(w, r, s.open) })
	mux.HandleFunc("PUT "+Path+"{key}", s.publish)
	mux.HandleFunc("GET "+Path, s.list)
}

// Peer answers other caches, of what is here.
func (s *Cache) Peer(mux *http.ServeMux) {
	mux.HandleFunc("GET "+Path+"{key}", func(w http.ResponseWriter, r *http.Request) {
		s.get(bounded{w, r.Context(), s.Sent}, r, func(_ context.Context, key string) (*store.File, error) {
			return s.openLocal(key)
		})
	})
	mux.HandleFunc("GET "+Path, s.list)
}

func (s *Cache) get(w http.ResponseWriter, r *http.Request, open func(context.Context, string) (*store.File, error)) {
	key := r.PathValue("key")
	if !compiled.IsSum(key) {
		http.Error(w, "the key is invalid: want 64 hexadecimal digits", http.StatusBadRequest)
		return
	}
	f, err := open(r.Context(), key)
	switch {
	case errors.Is(err, store.ErrAbsent):
		s.Count("none")
		http.Error(w, errNone.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("ETag", strconv.Quote(slices.Concat(s.Store.Objects(View(key)), []string{""})[0]))
	w.Header().Set(cacheapi.ScopeHeader, s.scopeOf(key))
	w.Header().Set("Content-Type", "application/x-tar")
	http.ServeContent(w, r, "", info.ModTime(), f.File)
}

func (s *Cache) publish(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("key")
	if !compiled.IsSum(key) {
		http.Error(w, "the key is invalid: want 64 hexadecimal digits", http.StatusBadRequest)
		return
	}
	switch err := s.put(key, r.Header.Get(cacheapi.ScopeHeader), r.Body, r.ContentLength, ""); {
	case errors.Is(err, errExists):
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.Is(err, store.ErrNoRoom):
		http.Error(w, err.Error(), http.StatusInsufficientStorage)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		s.Count("published")
		w.WriteHeader(http.StatusCreated)
	}
}
