// Package coldstart learns how long replicas take from their placement until Consul reports them
// healthy, and how much of that time the image, models, kernels and loading take. The samples are
// in Consul KV, so all agents share them.
package coldstart

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/learned"
)

// Sample is one start of a replica.
type Sample = learned.Start

// P95 returns the 95th percentile of the starts on the slowest class that has enough samples; see
// learned.Starts.
func P95(samples []Sample, now time.Time) (time.Duration, bool) {
	return learned.Starts{Samples: samples}.P95(now)
}

// Read returns the samples of a service, or none if the key does not exist.
func Read(ctx context.Context, client *consul.Client, service string) ([]Sample, error) {
	doc, _, err := read(ctx, client, service)
	return doc.Samples, err
}

func read(ctx context.Context, client *consul.Client, service string) (doc learned.Starts, index uint64, err error) {
	key := learned.StartsKey(service)
	pair, _, err := client.KV().Get(key, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil || pair == nil {
		return doc, 0, err
	}
	if doc, err = learned.ParseStarts(pair.Value); err != nil {
		return doc, 0, fmt.Errorf("key %s in Consul: %w: delete it", key, err)
	}
	return doc, pair.ModifyIndex, nil
}

// add appends samples. It keeps samples that another writer adds at the same time.
func add(ctx context.Context, client *consul.Client, service string, samples []Sample) error {
	key := learned.StartsKey(service)
	for range 3 {
		doc, index, err := read(ctx, client, service)
		if err != nil {
			return err
		}
		doc.Add(samples...)
		value, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		pair := &consul.KVPair{Key: key, Value: value, ModifyIndex: index}
		if ok, _, err := client.KV().CAS(pair, (&consul.WriteOptions{}).WithContext(ctx)); err != nil || ok {
			return err
		}
	}
	return fmt.Errorf("cannot write key %s in Consul: other writers changed it at every attempt", key)
}
