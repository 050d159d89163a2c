package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/driver"
	"aliquot.example/ui/view"
)

// watchDrivers watches the documents of the driver rollout.
func (w *Watch) watchDrivers(ctx context.Context) {
	w.follow(ctx, "Consul KV", func(ctx context.Context, index uint64) (uint64, error) {
		q := (&consul.QueryOptions{WaitIndex: index, WaitTime: blockingWait}).WithContext(ctx)
		if index == 0 {
			q.WaitTime = time.Millisecond
		}
		pairs, meta, err := w.o.Consul.KV().List(driver.RolloutPrefix+"/", q)
		if err != nil {
			return 0, err
		}
		found := driversOf(pairs)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.drivers = found
		w.signal()
		return meta.LastIndex, nil
	})
}

// driversOf decodes the documents. It adds a problem for each invalid document.
func driversOf(pairs consul.KVPairs) (out view.Drivers) {
	out.Wanted.Max = 1
	for _, p := range pairs {
		var err error
		switch key := strings.TrimPrefix(p.Key, driver.RolloutPrefix+"/"); {
		case key == "wanted":
			out.Wanted, err = driver.ParseWanted(p.Value)
		case key == "slots":
			out.Slots, err = driver.ParseSlots(p.Value)
		case strings.HasPrefix(key, "nodes/"):
			var r driver.NodeReport
			if err = json.Unmarshal(p.Value, &r); err == nil {
				out.Nodes = append(out.Nodes, r)
			}
		}
		if err != nil {
			out.Problems = append(out.Problems, fmt.Sprintf("cannot decode key %s in Consul: %s", p.Key, plain(err)))
		}
	}
	return out
}
