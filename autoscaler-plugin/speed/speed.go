// Package speed brings the rates that gateways measured into force for services on several hardware
// classes. The speeds in force are in Consul KV: the APM measures demand in them and the strategy
// measures capacity. These are separate processes that can restart at any time, and both must use
// the same speeds.
package speed

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/scale"
)

// Setting is the setting that disables measured speeds, in both plugins.
const Setting = "learn_speed"

// prefix is the prefix of the keys. The service's name follows.
const prefix = "aliquot/speed/"

const (
	// lead is the delay between writing a change and its coming into force. By then every reader
	// has it, so that all count demand and capacity in the same unit.
	lead = 5 * time.Second
	// minInterval is the minimum time between two changes. The gateways do not publish more often.
	minInterval = 10 * time.Second
)

// Document is the value of a key.
type Document = learned.Speeds

// Reader reads documents. While Consul is away, it returns the last ones.
type Reader struct {
	client *consul.Client

	mu   sync.Mutex
	last map[string]Document
	// next is when Follow reads the gateways' rates again, by service.
	next map[string]time.Time
}

// Wanted reports whether a plugin's settings ask for measured speeds.
func Wanted(config map[string]string) (bool, error) {
	switch config[Setting] {
	case "", "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%s is %q: want true or false", Setting, config[Setting])
}

// NewReader returns nil if the plugin's settings disable measured speeds.
func NewReader(config map[string]string) (*Reader, error) {
	wanted, err := Wanted(config)
	if err != nil || !wanted {
		return nil, err
	}
	client, err := settings.Consul(config)
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	return &Reader{client: client, last: map[string]Document{}, next: map[string]time.Time{}}, nil
}

// Read returns the document of a service. A nil Reader returns an empty document. If Consul is away
// and has never answered, Read fails: a guess would plan for the wrong hardware.
func (r *Reader) Read(ctx context.Context, service string) (Document, error) {
	if r == nil {
		return Document{}, nil
	}
	doc, _, err := r.read(ctx, service)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if last, ok := r.last[service]; ok {
			return last, nil
		}
		return doc,
			guard.Plain(
				fmt.Errorf("measured speeds of %q: %w; set %s to false in aliquot-apm and aliquot-strategy to do "+
					"without Consul", service, err, Setting))
	}
	r.last[service] = doc
	return doc, nil
}

func (r *Reader) read(ctx context.Context, service string) (Document, uint64, error) {
	pair, _, err := r.client.KV().Get(prefix+service, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil || pair == nil {
		return Document{}, 0, err
	}
	doc, err := learned.ParseSpeeds(pair.Value)
	if err != nil {
		return Document{}, 0, fmt.Errorf("key %s in Consul does not hold speeds of this release: delete it",
			prefix+service)
	}
	return doc, pair.ModifyIndex, nil
}

// Follow writes new speeds if the rates that gateways measured have moved enough. They come into
// force after lead. A class that nobody measures any more keeps its rate. Follow checks a service
// at most once per pause, and does nothing on a nil Reader. It returns what it wrote, or nil.
func (r *Reader) Follow(ctx context.Context, service, rates string, classes []scale.Class,
	now time.Time) (written *Document, err error) {
	if r == nil || !r.due(service, now) {
		return nil, nil
	}
	pairs, meta, err := r.client.KV().List(rates+"/"+service+"/", (&consul.QueryOptions{}).WithContext(ctx))
	if err := settings.Whole(meta, err); err != nil {
		return nil, err
	}
	listed, err := profilekv.List(r.client, service, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	doc, index, err := r.read(ctx, service)
	if err != nil || now.Before(doc.Since.Add(minInterval)) {
		return nil, err
	}
	next := learned.NewSpeeds(now.Add(lead), doc.Rates)
	next.Slots, next.SlotsBefore = map[string]float64{}, doc.Slots
	maps.Copy(next.Rates, doc.Rates)
	maps.Copy(next.Slots, doc.Slots)
	measured, slots := merge(pairs, listed.Profiles[service], now)
	maps.Copy(next.Rates, measured)
	maps.Copy(next.Slots, slots)
	if !scale.Moved(classes, doc.Rates, next.Rates) && !scale.SlotsMoved(classes, doc.Slots, next.Slots) {
		return nil, nil
	}
	value, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	ok, _, err := r.client.KV().CAS(&consul.KVPair{Key: prefix + service, Value: value, ModifyIndex: index},
		(&consul.WriteOptions{}).WithContext(ctx))
	if err != nil || !ok { // another agent was faster and wrote the same
		return nil, err
	}
	return &next, nil
}

func (r *Reader) due(service string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.next[service]) {
		return false
	}
	r.next[service] = now.Add(minInterval)
	return true
}

// minSamples is the minimum number of samples to trust a class.
const minSamples = 8

// trusted reports whether gateways measured enough requests.
func trusted(samples float64, _ time.Duration) bool { return samples >= minSamples }

// merge returns the rates of the classes that have enough samples, and the slots that they were
// measured with.
func merge(pairs consul.KVPairs, profiles []learned.Profile, now time.Time) (rates, slots map[string]float64) {
	var known []learned.Rates
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		known = append(known, doc)
	}
	rates, slots = map[string]float64{}, map[string]float64{}
	for class, m := range learned.Known(now, known, profiles, trusted) {
		if (m.Source == learned.FromProfile || m.Samples >= minSamples) && m.Rate > 0 {
			rates[class] = m.Rate
			if m.Slots > 0 {
				slots[class] = m.Slots
			}
		}
	}
	return rates, slots
}
