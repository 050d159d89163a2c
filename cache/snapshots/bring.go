package snapshots

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"aliquot.example/internal/cacheapi"
)

// peerStall is a cache's Stall: a peer whose uploads are bounded sends to others between two
// pieces.
const peerStall = 30 * time.Second

var errStall = errors.New("the peer sent no data for too long")

// copyFromPeer copies a peer's snapshot into the store.
func (s *Cache) copyFromPeer(ctx context.Context, peer, key string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	res, err := s.ask(ctx, http.MethodGet, peer, key)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body := stallReader{res.Body, cmp.Or(s.Stall, peerStall), func() { cancel(errStall) }}
	err = s.put(key, res.Header.Get(cacheapi.ScopeHeader), body, res.ContentLength,
		strings.Trim(res.Header.Get("ETag"), `"`))
	if errors.Is(err, errExists) {
		return nil // somebody else brought it
	}
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return err
}

// stallReader calls cancel when a read takes longer than limit.
type stallReader struct {
	io.Reader
	limit  time.Duration
	cancel func()
}

func (r stallReader) Read(p []byte) (int, error) {
	defer time.AfterFunc(r.limit, r.cancel).Stop()
	return r.Reader.Read(p)
}
