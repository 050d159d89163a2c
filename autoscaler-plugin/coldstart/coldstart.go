// Package coldstart learns how long replicas take from their placement until
// Consul calls them healthy. The samples live in Consul's KV store, so that every
// agent knows what any of them saw.
package coldstart

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	consul "github.com/hashicorp/consul/api"
)

// prefix of the keys; the rest is the service's name.
const prefix = "aliquot/coldstart/"

const (
	// kept is how many samples a document holds, newest last.
	kept = 64
	// enough samples of a class are needed to believe them.
	enough = 3
	// believed is how long a sample counts.
	believed = 7 * 24 * time.Hour
)

// Sample is one start of a replica.
type Sample struct {
	At      time.Time `json:"at"`
	Class   string    `json:"class"`
	Seconds float64   `json:"seconds"`
}

// document is the value of a key.
type document struct {
	Version int      `json:"version"`
	Samples []Sample `json:"samples"`
}

// P95 returns the 95th percentile of the starts of the slowest class that enough
// is known of, so that all classes of a service are scaled by one value. Samples
// that no replica can have had do not count. The second result is false when no class is known well enough.
func P95(samples []Sample, now time.Time) (time.Duration, bool) {
	byClass := map[string][]float64{}
	for _, s := range samples {
		if age := now.Sub(s.At); age.Abs() < believed && s.Seconds > 0 && s.Seconds < longest.Seconds() {
			byClass[s.Class] = append(byClass[s.Class], s.Seconds)
		}
	}
	slowest := 0.0
	for _, seconds := range byClass {
		if len(seconds) < enough {
			continue
		}
		slices.Sort(seconds)
		slowest = max(slowest, seconds[min(len(seconds)-1, (len(seconds)*95+99)/100-1)])
	}
	return time.Duration(slowest * float64(time.Second)).Round(time.Second), slowest > 0
}

// Read returns the samples of a service, none where there is no key.
func Read(ctx context.Context, client *consul.Client, service string) ([]Sample, error) {
	doc, _, err := read(ctx, client, service)
	return doc.Samples, err
}

func read(ctx context.Context, client *consul.Client, service string) (document, uint64, error) {
	pair, _, err := client.KV().Get(prefix+service, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil || pair == nil {
		return document{Version: 1}, 0, err
	}
	var doc document
	if err := json.Unmarshal(pair.Value, &doc); err != nil || doc.Version != 1 {
		return document{}, 0, fmt.Errorf("key %s in Consul does not hold cold starts of this release: delete it", prefix+service)
	}
	return doc, pair.ModifyIndex, nil
}

// add appends samples; another writer's between are kept.
func add(ctx context.Context, client *consul.Client, service string, samples []Sample) error {
	for range 3 {
		doc, index, err := read(ctx, client, service)
		if err != nil {
			return err
		}
		doc.Samples = append(doc.Samples, samples...)
		doc.Samples = doc.Samples[max(0, len(doc.Samples)-kept):]
		value, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		pair := &consul.KVPair{Key: prefix + service, Value: value, ModifyIndex: index}
		if ok, _, err := client.KV().CAS(pair, (&consul.WriteOptions{}).WithContext(ctx)); err != nil || ok {
			return err
		}
	}
	return fmt.Errorf("key %s in Consul changes all the time", prefix+service)
}
