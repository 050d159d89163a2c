package gateway

import (
	"context"
	"net/http"
	"sync/atomic"
)

type streamsKey struct{}

// withStreams adds a counter of the requests in progress on a connection.
func withStreams(ctx context.Context) context.Context {
	return context.WithValue(ctx, streamsKey{}, new(atomic.Int64))
}

// stream counts an HTTP/2 request, and returns the function to call at its end. On a connection
// that has reached max_streams, the client holds back requests. Only the metric shows this.
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
