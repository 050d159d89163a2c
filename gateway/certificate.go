package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is the listener's certificate. It is read again when its files change.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu        sync.Mutex
	pair      *tls.Certificate
	lastCheck time.Time
	stamps    [2]stamp
}

// stamp identifies a version of a file.
type stamp struct {
	changed time.Time
	size    int64
}

func loadCertificate(cert, key string, log *slog.Logger) (*certificate, error) {
	c := &certificate{cert: cert, key: key, log: log}
	c.stamps = c.stamp()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("listen: cannot load the certificate: %w", err)
	}
	c.pair, c.lastCheck = &pair, time.Now()
	return c, nil
}

func (c *certificate) stamp() (s [2]stamp) {
	for i, path := range []string{c.cert, c.key} {
		if info, err := os.Stat(path); err == nil {
			s[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

// checkInterval is the minimum time between two checks of the files.
const checkInterval = time.Second

// get implements GetCertificate of tls.Config. If changed files cannot be used, it returns the old
// certificate and tries again later: they may be half written.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.lastCheck) < checkInterval {
		return c.pair, nil
	}
	c.lastCheck = now
	stamps := c.stamp()
	if stamps == c.stamps {
		return c.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		c.log.Warn("cannot load the changed certificate; keeping the old one", "error", err)
		return c.pair, nil
	}
	c.pair, c.stamps = &pair, stamps
	c.log.Info("certificate reloaded", "file", c.cert)
	return c.pair, nil
}
