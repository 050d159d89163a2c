package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// accessLog writes one JSON line per request, in batches, so that a request never
// waits for the disk.
type accessLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	out  *bufio.Writer
	file io.Closer
}

// openAccessLog opens "off", "stderr" or a file; nil when off.
func openAccessLog(to string) (*accessLog, error) {
	var file io.WriteCloser
	switch to {
	case "off", "":
		return nil, nil
	case "stderr":
		file = os.Stderr
	default:
		f, err := os.OpenFile(to, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, fmt.Errorf("access_log: %w", err)
		}
		file = f
	}
	a := &accessLog{out: bufio.NewWriterSize(file, 64<<10), file: file}
	a.log = slog.New(slog.NewJSONHandler(a, &slog.HandlerOptions{ReplaceAttr: plain}))
	return a, nil
}

// plain leaves out the level: every line of the access log has the same.
func plain(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.LevelKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}

// Write takes one line.
func (a *accessLog) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Write(p)
}

// run writes out every second until ctx ends, and once more then.
func (a *accessLog) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		a.mu.Lock()
		a.out.Flush()
		a.mu.Unlock()
	}
	if a.file != os.Stderr {
		a.file.Close()
	}
}

// record counts a request that ended and writes its line.
func (x *exchange) record() {
	s := x.server
	x.writer.disarm()
	took := time.Since(x.began)
	status := x.writer.status
	if status == 0 {
		status = results[x.outcome].status
	}
	name := ""
	if x.service != nil {
		name = x.service.name
		x.service.metrics.ended(x.outcome, status, took)
		if x.attempts > 0 {
			x.service.metrics.waited(x.waited)
		}
		if x.reading != nil {
			x.reading.close(x)
		}
		if x.servedBy != nil {
			x.servedBy.took(x.held)
		}
		if len(x.plan.tenants.Limits) > 0 {
			s.metrics.tenants.WithLabelValues(name, x.plan.tenants.known(x.request.Tenant), x.outcome.String()).Inc()
		}
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
		slog.Int("attempts", x.attempts), slog.Int64("bytes", x.writer.sent()),
		slog.Float64("wait_ms", millis(x.waited)), slog.Float64("first_byte_ms", millis(firstByte)), slog.Float64("total_ms", millis(took)),
	)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
