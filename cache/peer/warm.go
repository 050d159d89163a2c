package peer

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"aliquot.example/internal/blob"
)

const (
	// alivePath answers 204.
	alivePath = "/v1/alive"
	// warmInterval is the longest idle time of a connection to a peer. It is below the idle timeouts
	// of both sides.
	warmInterval = 30 * time.Second
	// warmTimeout bounds one request.
	warmTimeout = 5 * time.Second
	// warmSpread is the time over which a node connects to peers that it has just learned of,
	// and the first pause after a failure.
	warmSpread = time.Second
	// warmPeers limits the connections, and warmAtOnce the concurrent handshakes.
	warmPeers, warmAtOnce = 128, 4
)

// KeepWarm keeps an idle connection to each peer open until the context ends. Otherwise the
// first chunk of a model waits for handshakes: its node asks the owners of several chunks, each
// of which asks all peers, and in a cluster of eight nodes that makes about 60 handshakes at
// once. In a cluster of more than 128 nodes each node keeps connections to 128 of them.
func (n *Network) KeepWarm(ctx context.Context) {
	var kept sync.WaitGroup
	defer kept.Wait()
	turns := make(chan struct{}, warmAtOnce)
	ends := map[string]context.CancelFunc{}
	defer func() {
		for _, end := range ends {
			end()
		}
	}()
	for {
		changed := n.Changed()
		now := map[string]bool{}
		for _, peer := range n.warmed() {
			now[peer] = true
			if ends[peer] == nil {
				var own context.Context
				own, ends[peer] = context.WithCancel(ctx)
				kept.Go(func() { n.keepOne(own, peer, turns) })
			}
		}
		for peer, end := range ends {
			if !now[peer] {
				end()
				delete(ends, peer)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// warmed lists the peers to keep connections to. Each node chooses different ones.
func (n *Network) warmed() (peers []string) {
	self, all := n.Peers()
	for _, p := range blob.Owners(self, 0, all) {
		if p != self && len(peers) < warmPeers {
			peers = append(peers, p)
		}
	}
	return peers
}

// keepOne keeps a connection to one peer open.
func (n *Network) keepOne(ctx context.Context, peer string, turns chan struct{}) {
	wait, pause := rand.N(warmSpread), warmSpread
	ask := n.connect
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if err := ask(ctx, peer, turns); err == nil {
			wait, pause, ask = warmInterval/2+rand.N(warmInterval/2), warmSpread, n.repeat
			continue
		}
		wait, pause, ask = pause/2+rand.N(pause/2), min(2*pause, warmInterval), n.connect
	}
}

// connect sends a request to a peer without a connection, within a turn.
func (n *Network) connect(ctx context.Context, peer string, turns chan struct{}) error {
	select {
	case turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-turns }()
	return n.alive(ctx, peer)
}

// repeat asks a peer that answered the last time. It needs no turn: peers that hang would keep
// all turns for so long that the connections to the others end.
func (n *Network) repeat(ctx context.Context, peer string, _ chan struct{}) error {
	return n.alive(ctx, peer)
}

// alive sends an empty request to a peer. A kept connection could outlive the peer's certificate,
// so alive checks that the peer is still trusted.
func (n *Network) alive(ctx context.Context, peer string) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.Scheme+"://"+peer+alivePath, nil)
	if err != nil {
		return err
	}
	res, err := n.Client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	// The connection is idle only after the end of the body, here or of an error.
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxFrame)); err != nil {
		return fmt.Errorf("peer %s: %w", peer, err)
	}
	if n.Files == nil || res.TLS == nil {
		return nil
	}
	if err := n.Files.trusted(res.TLS); err != nil {
		n.Client.CloseIdleConnections() // those to the other peers are opened again
		return fmt.Errorf("peer %s: %w", peer, err)
	}
	return nil
}
