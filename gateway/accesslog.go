package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// accessLog writes one JSON line per request, in batches. A request never waits for the disk: while
// the buffer is full, lines are dropped and counted.
type accessLog struct {
	log     *slog.Logger
	out     io.WriteCloser
	dropped prometheus.Counter
	full    chan struct{} // signals that the buffer is half full

	mu    sync.Mutex
	lines []byte
}

// maxLines is the size of the buffer of unwritten lines, in bytes.
const maxLines = 4 << 20

// openAccessLog opens the access log: "off", "stderr" or a file. It returns nil for "off".
func openAccessLog(to string, dropped prometheus.Counter) (*accessLog, error) {
	var out io.WriteCloser
	switch to {
	case "off", "":
		return nil, nil
	case "stderr":
		out = os.Stderr
	default:
		f, err := os.OpenFile(to, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, fmt.Errorf("access_log: %w", err)
		}
		out = f
	}
	a := &accessLog{out: out, dropped: dropped, full: make(chan struct{}, 1)}
	a.log = slog.New(slog.NewJSONHandler(a, &slog.HandlerOptions{ReplaceAttr: plain}))
	return a, nil
}

// plain removes the level, which is the same in every line.
func plain(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.LevelKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}

// Write adds one line to the buffer.
func (a *accessLog) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.lines)+len(p) > maxLines {
		a.dropped.Inc()
		return len(p), nil
	}
	a.lines = append(a.lines, p...)
	if len(a.lines) > maxLines/2 {
		select {
		case a.full <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

// lastWrite is the longest wait for the last lines when the gateway exits.
const lastWrite = time.Second

// run writes the buffer every second until ctx ends, and once more then.
func (a *accessLog) run(ctx context.Context) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		a.write(ctx)
	}()
	<-ctx.Done()
	select {
	case <-written:
	case <-time.After(lastWrite):
	}
}

func (a *accessLog) write(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var spare []byte
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-a.full:
		case <-ctx.Done():
			last = true
		}
		a.mu.Lock()
		lines := a.lines
		a.lines = spare[:0]
		a.mu.Unlock()
		a.out.Write(lines)
		spare = lines
	}
	if a.out != os.Stderr {
		a.out.Close()
	}
}

// record counts a finished request and writes its line.
func (x *exchange) record() {
	s := x.server
	now := time.Now()
	took := now.Sub(x.began)
	status := x.writer.status
	if status == 0 {
		status = results[x.outcome].status
	}
	name := ""
	if x.service != nil {
		name = x.service.name
		x.service.metrics.ended(x.outcome, status, took)
		if x.attempts.n > 0 {
			x.service.metrics.waited(x.waited)
		}
		if x.reading != nil {
			x.reading.close(x)
		}
		if x.servedBy != nil {
			x.servedBy.took(x.held, x.generated())
		}
		if len(x.plan.tenants.Limits) > 0 {
			s.metrics.tenants.WithLabelValues(name, x.plan.tenants.known(x.request.Tenant), x.outcome.String()).Inc()
		}
		x.remember(status, took, now)
	} else {
		s.metrics.requests.WithLabelValues("", x.outcome.String(), codeClass(status)).Inc()
	}
	if s.access == nil {
		return
	}
	firstByte := time.Duration(0)
	if !x.writer.first.IsZero() {
		firstByte = x.writer.first.Sub(x.began)
	}
	s.access.log.LogAttrs(context.Background(), slog.LevelInfo, "request",
		slog.String("service", name), slog.String("outcome", x.outcome.String()), slog.Int("status", status),
		slog.String("method", x.in.Method), slog.String("host", x.in.Host), slog.String("path", x.in.URL.Path),
		slog.String("proto", x.in.Proto), slog.String("client", x.in.RemoteAddr),
		slog.String("tenant", x.request.Tenant), slog.String("class", x.class), slog.String("replica", x.replica),
		slog.Int("attempts", x.attempts.n), slog.Int64("bytes", x.writer.sent()),
		slog.Float64("wait_ms", millis(x.waited)), slog.Float64("first_byte_ms", millis(firstByte)),
		slog.Float64("total_ms", millis(took)),
	)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
