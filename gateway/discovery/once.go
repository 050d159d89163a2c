package discovery

import (
	"log/slog"
	"sync"
)

// onceLog logs each invalid value once: discovery reads all replicas again whenever one changes.
type onceLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	seen map[[3]string]bool
}

// maxLogged limits the remembered values. When it is reached, they are forgotten and logged again.
const maxLogged = 10_000

func (n *onceLog) warn(text, address, key, value string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	mistake := [3]string{address, key, value}
	if n.seen[mistake] {
		return
	}
	if n.seen == nil || len(n.seen) >= maxLogged {
		n.seen = map[[3]string]bool{}
	}
	n.seen[mistake] = true
	n.log.Warn(text, "address", address, "key", key, "value", value)
}
