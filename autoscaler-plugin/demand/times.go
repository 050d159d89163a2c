package demand

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
)

// latencies returns how long the requests of a gateway took. A gateway of an older release does not
// have this endpoint.
func (g *Gateways) latencies(ctx context.Context, m member, service string,
	window time.Duration) ([]api.Latency, error) {
	target := fmt.Sprintf("http://%s/v1/services/%s/latency?window=%ds", m.admin, url.PathEscape(service),
		int(window.Seconds()))
	var body api.Latencies
	found, err := g.get(ctx, target, &body)
	if err == nil && !found {
		err = errors.New("it does not report latencies: run gateway and plugin of the same release")
	}
	return body.Series, err
}

// addTimes adds the latencies of one gateway.
func (h *History) addTimes(of []api.Latency) error {
	for _, l := range of {
		at := l.Time - h.First
		if at < 0 || at >= int64(len(h.Seconds)) {
			continue
		}
		t := &h.Seconds[at].Times
		for _, of := range []struct {
			to   *quantile.Sketch
			from []byte
		}{{&t.TTFT, l.TTFT}, {&t.TPOT, l.TPOT}, {&t.E2E, l.Total}} {
			sketch, err := quantile.Decode(of.from)
			if err != nil {
				return fmt.Errorf("a gateway's latencies: %w", err)
			}
			of.to.Merge(sketch)
		}
	}
	return nil
}
