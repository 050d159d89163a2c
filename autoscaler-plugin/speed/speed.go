// Package speed brings the rates that gateways measured into force for the counts
// of services on several hardware classes. What is in force lives in Consul's KV
// store: the APM counts demand in it and the strategy capacity, in processes that
// know nothing of each other and may be restarted, and both must count alike.
package speed

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot/autoscaler-plugin/guard"
	"aliquot/internal/scale"
)

// Setting switches measured speeds off, in both plugins.
const Setting = "learn_speed"

// prefix of the keys; the rest is the service's name.
const prefix = "aliquot/speed/"

const (
	// lead is how far ahead of its writing a change comes into force: every reader
	// has it by then, so that none counts demand in one unit and capacity in another.
	lead = 5 * time.Second
	// pause is between two changes: what the gateways publish is not newer.
	pause = 10 * time.Second
)

// Document is the value of a key. The zero Document is that of a key that is not
// there.
type Document struct {
	Version int `json:"version"`
	// Since is when Rates come into force; until then it is Before.
	Since time.Time `json:"since"`
	// Rates are requests per second of one busy slot, by class.
	Rates  map[string]float64 `json:"rates"`
	Before map[string]float64 `json:"before,omitempty"`
}

// At returns the rates in force and for how long they have been, 0 while a change
// is about to come.
func (d Document) At(t time.Time) (rates map[string]float64, age time.Duration) {
	if t.Before(d.Since) {
		return d.Before, 0
	}
	return d.Rates, t.Sub(d.Since)
}

// Reader reads documents, and while Consul is away knows what it last said.
type Reader struct {
	client *consul.Client

	mu   sync.Mutex
	last map[string]Document
	// next is when Follow looks at the gateways' rates again.
	next map[string]time.Time
}

// Wanted reads whether a plugin's settings ask for measured speeds.
func Wanted(settings map[string]string) (bool, error) {
	switch settings[Setting] {
	case "", "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%s is %q: want true or false", Setting, settings[Setting])
}

// NewReader returns nil where the plugin's settings switch measured speeds off.
func NewReader(settings map[string]string) (*Reader, error) {
	wanted, err := Wanted(settings)
	if err != nil || !wanted {
		return nil, err
	}
	client, err := guard.Consul(settings)
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	return &Reader{client: client, last: map[string]Document{}, next: map[string]time.Time{}}, nil
}

// Read returns what is known of a service. A nil Reader knows nothing. When Consul
// is away and never answered it fails: a guess would plan for other hardware.
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
		return doc, guard.Plain(fmt.Errorf("measured speeds of %q: %w; set %s to false in aliquot-apm and aliquot-strategy to do without Consul", service, err, Setting))
	}
	r.last[service] = doc
	return doc, nil
}

func (r *Reader) read(ctx context.Context, service string) (Document, uint64, error) {
	pair, _, err := r.client.KV().Get(prefix+service, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil || pair == nil {
		return Document{}, 0, err
	}
	var doc Document
	if err := json.Unmarshal(pair.Value, &doc); err != nil || doc.Version != 1 {
		return Document{}, 0, fmt.Errorf("key %s in Consul does not hold speeds of this release: delete it", prefix+service)
	}
	return doc, pair.ModifyIndex, nil
}

// Follow writes down what the gateways have measured where speeds have moved by
// it, to come into force a little later. A class that nobody measures any more
// keeps its rate. It looks once in every pause of a service; a nil Reader never.
// What it wrote it returns, nil where nothing has moved.
func (r *Reader) Follow(ctx context.Context, service, rates string, classes []scale.Class, now time.Time) (written *Document, err error) {
	if r == nil || !r.due(service, now) {
		return nil, nil
	}
	pairs, _, err := r.client.KV().List(rates+"/"+service+"/", (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	doc, index, err := r.read(ctx, service)
	if err != nil || now.Before(doc.Since.Add(pause)) {
		return nil, err
	}
	next := Document{Version: 1, Since: now.Add(lead).UTC().Truncate(time.Second), Rates: map[string]float64{}, Before: doc.Rates}
	maps.Copy(next.Rates, doc.Rates)
	maps.Copy(next.Rates, merge(pairs, now))
	if !scale.Moved(classes, doc.Rates, next.Rates) {
		return nil, nil
	}
	value, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	ok, _, err := r.client.KV().CAS(&consul.KVPair{Key: prefix + service, Value: value, ModifyIndex: index}, (&consul.WriteOptions{}).WithContext(ctx))
	if err != nil || !ok { // another agent that was faster has written the same
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
	r.next[service] = now.Add(pause)
	return true
}

const (
	// enough samples of a class are needed to believe them.
	enough = 8
	// halfLife is the age at which a gateway's samples count half as much as new
	// ones: what is measured now outweighs the past, and the past stands where
	// nothing is measured now.
	halfLife = time.Hour
	// believed is the age from which rates count nothing.
	believed = 7 * 24 * time.Hour
)

// merge returns the mean rates of all gateways, those of classes that enough is
// known of. Figures that cannot be are passed over.
func merge(pairs consul.KVPairs, now time.Time) map[string]float64 {
	type sum struct{ rate, weight, samples float64 }
	sums := map[string]sum{}
	for _, pair := range pairs {
		var doc struct {
			Version int       `json:"version"`
			Updated time.Time `json:"updated"`
			Classes map[string]struct {
				Rate float64 `json:"rate"`
				N    float64 `json:"n"`
			} `json:"classes"`
		}
		if json.Unmarshal(pair.Value, &doc) != nil || doc.Version != 1 {
			continue
		}
		age := now.Sub(doc.Updated).Abs() // a time to come is as doubtful as one gone by
		if age > believed {
			continue
		}
		for class, c := range doc.Classes {
			if !(c.Rate >= 1e-9 && c.Rate <= 1e9 && c.N > 0 && c.N <= 1e15) {
				continue
			}
			weight := c.N * math.Exp2(-float64(age)/float64(halfLife))
			s := sums[class]
			sums[class] = sum{s.rate + c.Rate*weight, s.weight + weight, s.samples + c.N}
		}
	}
	out := map[string]float64{}
	for class, s := range sums {
		if s.samples >= enough && s.weight > 0 {
			out[class] = s.rate / s.weight
		}
	}
	return out
}
