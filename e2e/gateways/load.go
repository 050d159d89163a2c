package gateways

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// tag identifies the current process of a gateway.
func (g *Gateway) tag() string { return fmt.Sprintf("%d.%d", g.Index, g.lives.Load()) }

// Ask sends one request through the gateway. The replica records its ID and when it started; see
// Start.
func (g *Gateway) Ask(ctx context.Context, client *http.Client, id string, serve time.Duration,
	header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.Public+"/", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set(fromHeader, g.tag())
	req.Header.Set(ServeHeader, serve.String())
	if id != "" {
		req.Header.Set("X-Id", id)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return err
}

// Load is a set of clients that send one request after the other. Each has its own gateway and uses
// another one while that is unavailable, as behind a load balancer.
type Load struct {
	fleet  *Fleet
	client *http.Client
	cancel context.CancelFunc
	wait   sync.WaitGroup
	served []atomic.Int64 // by gateway

	mu     sync.Mutex
	failed []string
	lost   int
}

// Load starts that many clients for each gateway. Each request is served for between 0.5 and 1.5
// times mean.
func (f *Fleet) Load(clients int, mean time.Duration) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{fleet: f, cancel: cancel, served: make([]atomic.Int64, len(f.Gateways)),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients * len(f.Gateways)}}}
	for i := range clients * len(f.Gateways) {
		l.wait.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				l.ask(ctx, i%len(f.Gateways), mean/2+time.Duration(rand.Int64N(int64(mean)+1)))
			}
		})
	}
	return l
}

func (l *Load) ask(ctx context.Context, home int, serve time.Duration) {
	g := l.turnTo(home)
	if g == nil {
		return
	}
	life := g.lives.Load()
	// A request that was sent runs to its end: a load that ends loses nothing.
	err := g.Ask(context.WithoutCancel(ctx), l.client, "", serve, nil)
	switch {
	case err == nil:
		l.served[g.Index].Add(1)
	case g.doomed.Load() || g.lives.Load() != life:
		l.mu.Lock()
		l.lost++
		l.mu.Unlock()
	default:
		l.mu.Lock()
		l.failed = append(l.failed, fmt.Sprintf("%s: gateway %d: %v", time.Now().Format("15:04:05.000"), g.Index, err))
		l.mu.Unlock()
	}
}

// turnTo returns a gateway that accepts clients, preferably the client's own.
func (l *Load) turnTo(home int) *Gateway {
	all := l.fleet.Gateways
	for i := range all {
		if g := all[(home+i)%len(all)]; g.running() && !g.doomed.Load() && !g.leaving.Load() {
			return g
		}
	}
	return nil
}

// Served returns the number of requests served through each gateway.
func (l *Load) Served() (by []int64) {
	for i := range l.served {
		by = append(by, l.served[i].Load())
	}
	return by
}

// End ends the load after the requests in progress, and returns the failures and the number of
// requests lost with a gateway that was killed.
func (l *Load) End() (failed []string, lost int) {
	l.cancel()
	l.wait.Wait()
	l.client.CloseIdleConnections()
	return l.failed, l.lost
}
