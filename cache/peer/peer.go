package peer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"aliquot/cache/fetch"
	"aliquot/cache/origin"
	"aliquot/cache/store"
)

// question is what one cache asks another.
type question struct {
	fetch.Target
	Chunk  int   `json:"chunk"`
	Offset int64 `json:"offset"`
}

// path is that of the question.
const path = "/v1/chunk"

// Network asks peers for chunks. It is a fetch.Network.
type Network struct {
	*Members
	Client *http.Client
	// Scheme is https, or http on a network that is trusted.
	Scheme string
}

// Chunk asks a peer. The asker's token goes along over TLS alone.
func (n *Network) Chunk(ctx context.Context, peer string, t fetch.Target, chunk int, offset int64) (io.ReadCloser, func() uint32, error) {
	if n.Scheme != "https" {
		t.Token = ""
	}
	body, err := json.Marshal(question{t, chunk, offset})
	if err != nil {
		return nil, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.Scheme+"://"+peer+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	res, err := n.Client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusConflict:
		res.Body.Close()
		return nil, nil, fetch.ErrBusy
	default:
		res.Body.Close()
		return nil, nil, fmt.Errorf("the peer answers %s", res.Status)
	}
	f := &frames{Closer: res.Body, r: bufio.NewReader(res.Body)}
	return f, func() uint32 { return f.sum }, nil
}

// longestQuestion is in bytes.
const longestQuestion = 64 << 10

// Handler answers peers. Without TLS anybody may ask, so the node's own token for the
// origin is not used for them where insecure is set.
func Handler(c *fetch.Cache, insecure bool, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var q question
		if err := json.NewDecoder(io.LimitReader(r.Body, longestQuestion)).Decode(&q); err != nil {
			http.Error(w, "the question cannot be read", http.StatusBadRequest)
			return
		}
		if insecure && q.Token == "" {
			q.Token = origin.Nobody
		}
		reader, err := c.Chunk(r.Context(), q.Target, q.Chunk, q.Offset)
		switch {
		case errors.Is(err, fetch.ErrBusy):
			http.Error(w, err.Error(), http.StatusConflict)
			return
		case errors.Is(err, store.ErrNoRoom):
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer reader.Close()
		answer := http.NewResponseController(w)
		// The deadline of the server is for questions, not for chunks.
		_ = answer.SetWriteDeadline(time.Time{})
		w.WriteHeader(http.StatusOK)
		_ = answer.Flush()
		if err := send(r.Context(), w, func() { _ = answer.Flush() }, reader, q, c.Sent); err != nil && r.Context().Err() == nil {
			log.Info("a chunk could not be sent to a peer", "object", q.Object.ID, "chunk", q.Chunk, "error", err)
		}
	})
	return mux
}
