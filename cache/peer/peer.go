package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
)

// path is the path of requests for a chunk, heldPath that of requests for the list of complete
// objects.
const (
	path     = "/v1/chunk"
	heldPath = "/v1/held"
)

// Network requests chunks from peers. It implements fetch.Network.
type Network struct {
	*Members
	Client *http.Client
	// Files are the certificates of Client; nil on a trusted network.
	Files *Files
	// Scheme is https, or http on a trusted network.
	Scheme string
}

// Chunk requests a chunk from a peer. It sends the client's token only over TLS.
func (n *Network) Chunk(ctx context.Context, peer string, q fetch.ChunkRequest) (io.ReadCloser, func() uint32, error) {
	if n.Scheme != "https" {
		q.Token = ""
	}
	body, err := json.Marshal(q)
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
	f := &frames{ReadCloser: res.Body}
	return f, func() uint32 { return f.sum }, nil
}

// maxMarks bounds the number of marks that are read of an answer.
const maxMarks = 4 << 20

// Marks requests the marks of a peer's whole objects. Each has 8 bytes.
func (n *Network) Marks(ctx context.Context, peer string) ([]uint64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.Scheme+"://"+peer+heldPath, nil)
	if err != nil {
		return nil, err
	}
	res, err := n.Client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the peer answers %s", res.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, 8*maxMarks))
	marks := make([]uint64, len(raw)/8)
	for i := range marks {
		marks[i] = binary.BigEndian.Uint64(raw[8*i:])
	}
	return marks, err
}

func held(w http.ResponseWriter, c *fetch.Cache) {
	marks := c.Marks()
	raw := make([]byte, 0, 8*len(marks))
	for _, m := range marks {
		raw = binary.BigEndian.AppendUint64(raw, m)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(raw)
}

// maxRequest bounds the body of a request, in bytes.
const maxRequest = 64 << 10

// Handler serves peers. With insecure, anyone can be a peer, so it does not use the node's own
// token for the origin on their behalf.
func Handler(c *fetch.Cache, insecure bool, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+alivePath, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET "+heldPath, func(w http.ResponseWriter, _ *http.Request) { held(w, c) })
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var q fetch.ChunkRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&q); err != nil {
			http.Error(w, "cannot read the request", http.StatusBadRequest)
			return
		}
		if insecure && q.Token == "" {
			q.Token = origin.Nobody
		}
		reader, err := c.Chunk(r.Context(), q)
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
		// The server's deadline is for requests, not for chunks.
		_ = answer.SetWriteDeadline(time.Time{})
		w.WriteHeader(http.StatusOK)
		_ = answer.Flush()
		if err := send(r.Context(), w, func() {
			_ = answer.Flush()
		}, reader, q, c.Sent); err != nil && r.Context().Err() == nil {
			log.Info("cannot send a chunk to a peer", "object", q.Object.ID, "chunk", q.Chunk, "error", err)
		}
	})
	return mux
}
