package gateway

import (
	"context"
	"net/http"
	"sync/atomic"
)

type streamsKey struct{}

// withStreams counts the requests that are under way on a connection.
func withStreams(ctx context.Context) context.Context {
	return context.WithValue(ctx, streamsKey{}, new(atomic.Int64))
}

// stream counts a request of HTTP/2 and returns what its end is counted with. A
// connection that is at its bound has the client keep back what it wants to send, which
// nothing else here shows.
func (s *Server) stream(r *http.Request) func() {
	n, ok := r.Context().Value(streamsKey{}).(*atomic.Int64)
	if r.ProtoMajor != 2 || !ok {
		return func() {}
	}
	if n.Add(1) == int64(s.config.Listen.MaxStreams) {
		s.metrics.full.Inc()
	}
	return func() { n.Add(-1) }
}
