// Package learned defines the documents in Consul's KV through which gateways, router, autoscaler
// and operators share what was measured about a service, and the one rule that merges the
// measurements of several gateways. It is pure: its inputs are bytes and a time, its outputs are
// values.
package learned

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"aliquot.example/internal/gpu"
)

// version is the version of both documents.
const version = 1

// RatesPrefix is the folder of the Rates of all gateways unless they are configured
// otherwise.
const RatesPrefix = "aliquot/rates"

// Rates is what one gateway has measured about one service. It is the value of the key
// <prefix>/<service>/<gateway>.
type Rates struct {
	Version int       `json:"version"`
	Updated time.Time `json:"updated"`
	// Classes are by hardware class.
	Classes map[string]Class `json:"classes"`
}

// Class is what was measured about one hardware class.
type Class struct {
	// Rate is requests per second and busy slot.
	Rate float64 `json:"rate"`
	// Slots is the mean number of slots of a whole replica: if several gateways divide a replica's
	// slots, each publishes the whole number, so that Replica is the rate of a whole replica.
	Slots float64 `json:"slots"`
	// Samples is the number of requests behind this, whatever their weight.
	Samples float64 `json:"n"`
	// Replica is requests per second of a fully busy replica.
	Replica float64 `json:"replica_rate"`
	// Tokens are the curves of an engine that batches, by its slices of the GPU; see SlicesOf.
	Tokens map[string]Curve `json:"tokens,omitempty"`
}

// NewRates returns a document of the current version.
func NewRates(at time.Time) Rates {
	return Rates{Version: version, Updated: at.UTC().Truncate(time.Second), Classes: map[string]Class{}}
}

// ParseRates decodes a document. It leaves out impossible values and names them in the
// errors. It uses nothing of a document of another version.
func ParseRates(text []byte) (Rates, []error) {
	var doc Rates
	if err := json.Unmarshal(text, &doc); err != nil {
		return Rates{}, []error{fmt.Errorf("rates are not the expected JSON: %w", err)}
	}
	if doc.Version != version {
		return Rates{}, []error{fmt.Errorf("rates have version %d: this release reads version %d",
			doc.Version, version)}
	}
	doc.Updated = doc.Updated.UTC()
	var errs []error
	for name, c := range doc.Classes {
		if gpu.Slug(name) != name {
			errs = append(errs, fmt.Errorf("rates name %.64q, which is not a hardware class", name))
			delete(doc.Classes, name)
			continue
		}
		if err := c.check(); err != nil {
			errs = append(errs, fmt.Errorf("rates of class %q are out of range: %w", name, err))
			delete(doc.Classes, name)
			continue
		}
		if c.Samples == 0 {
			delete(doc.Classes, name)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return compare(a.Error(), b.Error()) })
	return doc, errs
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// possible reports whether a rate can have been measured; 0 stands for one that was not.
func possible(rate float64) bool { return rate == 0 || rate >= 1e-9 && rate <= 1e9 }

func (c Class) check() error {
	if !possible(c.Rate) || !possible(c.Replica) || c.Rate == 0 && c.Replica == 0 {
		return fmt.Errorf("rate %v, replica_rate %v", c.Rate, c.Replica)
	}
	if !(c.Samples >= 0 && c.Samples <= 1e15) || !(c.Slots >= 0 && c.Slots <= 1e9) {
		return fmt.Errorf("n %v, slots %v", c.Samples, c.Slots)
	}
	for of, t := range c.Tokens {
		if !t.Possible() {
			return fmt.Errorf("tokens of %.16q: %+v", of, t)
		}
	}
	return nil
}

const (
	// HalfLife is the age at which a gateway's samples count half as much as those of the newest
	// document: current measurements outweigh old ones, and old ones count if there are no current
	// ones.
	HalfLife = 15 * time.Minute
	// Believed is the age from which a document no longer counts and may be removed.
	Believed = 7 * 24 * time.Hour
)

// Age returns the age of a document. A time in the future counts as the same time in the past,
// because one of the two clocks is wrong by that much.
func (r Rates) Age(now time.Time) time.Duration { return now.Sub(r.Updated).Abs() }

// Merged is what several gateways measured about a class.
type Merged struct {
	Class
	// Updated is when the newest of it was published.
	Updated time.Time
	// Source is where the class's figures come from. Sizes has the source of those curves that come
	// from elsewhere.
	Source Source
	Sizes  map[string]Source
}

// SourceOf returns the source of a curve.
func (m Merged) SourceOf(size string) Source {
	if s, ok := m.Sizes[size]; ok {
		return s
	}
	return FromGateways
}

// Merge merges what several gateways published into one figure for each class: the mean weighted by
// samples. The samples of a gateway count half for every HalfLife that it is older than the newest
// document of the class. Samples is the sum of what is counted, so it is as large as the evidence,
// and it is the full number if only one gateway has samples. The result does not depend on the
// order. Token speeds are merged in the same way.
func Merge(now time.Time, all ...Rates) map[string]Merged {
	newest := map[string]time.Duration{}
	for _, doc := range all {
		for name := range doc.Classes {
			if age, known := newest[name]; doc.Age(now) <= Believed && (!known || doc.Age(now) < age) {
				newest[name] = doc.Age(now)
			}
		}
	}
	sums := map[string]*sum{}
	for _, doc := range all {
		for name, c := range doc.Classes {
			if doc.Age(now) > Believed || !(c.Samples > 0) {
				continue
			}
			if sums[name] == nil {
				sums[name] = &sum{tokens: map[string]*curves{}}
			}
			sums[name].add(c, c.Samples*math.Exp2(-float64(doc.Age(now)-newest[name])/float64(HalfLife)), doc, now)
		}
	}
	out := map[string]Merged{}
	for name, s := range sums {
		out[name] = s.merged()
	}
	return out
}

// mean accumulates a weighted mean.
type mean struct{ total, weight float64 }

func (m *mean) add(value, weight float64) {
	if value > 0 {
		m.total += value * weight
		m.weight += weight
	}
}

func (m mean) value() float64 {
	if m.weight == 0 {
		return 0
	}
	return m.total / m.weight
}

type sum struct {
	rate, replica, slots mean
	samples              float64
	updated              time.Time
	tokens               map[string]*curves
}

func (s *sum) add(c Class, weight float64, doc Rates, now time.Time) {
	s.rate.add(c.Rate, weight)
	s.replica.add(c.Replica, weight)
	s.slots.add(c.Slots, weight)
	s.samples += weight
	if s.updated.IsZero() || doc.Age(now) < now.Sub(s.updated).Abs() {
		s.updated = doc.Updated
	}
	for of, t := range c.Tokens {
		if s.tokens[of] == nil {
			s.tokens[of] = &curves{}
		}
		s.tokens[of].add(t, weight/c.Samples*t.Samples)
	}
}

func (s *sum) merged() Merged {
	m := Merged{Class: Class{Rate: s.rate.value(), Replica: s.replica.value(), Slots: s.slots.value(),
		Samples: s.samples}, Updated: s.updated, Source: FromGateways}
	for of, t := range s.tokens {
		if t.samples == 0 {
			continue
		}
		if m.Tokens == nil {
			m.Tokens = map[string]Curve{}
		}
		m.Tokens[of] = t.merged()
	}
	return m
}

// Speeds are the rates with which the autoscaler's plugins measure a service. They take effect in
// all plugins at the same time. The zero Speeds means that the key does not exist.
type Speeds struct {
	Version int `json:"version"`
	// Since is when Rates take effect; until then Before is in effect.
	Since time.Time `json:"since"`
	// Rates are requests per second of one busy slot, by class.
	Rates  map[string]float64 `json:"rates"`
	Before map[string]float64 `json:"before,omitempty"`
	// Slots are how many requests a replica serves at once, by class, and what they were before
	// Since.
	Slots       map[string]float64 `json:"slots,omitempty"`
	SlotsBefore map[string]float64 `json:"slots_before,omitempty"`
}

// NewSpeeds returns a document of the current version without rates.
func NewSpeeds(since time.Time, before map[string]float64) Speeds {
	return Speeds{Version: version, Since: since.UTC().Truncate(time.Second), Rates: map[string]float64{},
		Before: before}
}

// ParseSpeeds decodes a document. It fails on a document of another version, and on figures that
// cannot have been measured.
func ParseSpeeds(text []byte) (Speeds, error) {
	var doc Speeds
	if err := json.Unmarshal(text, &doc); err != nil {
		return Speeds{}, err
	}
	if doc.Version != version {
		return Speeds{}, errors.New("it has another version")
	}
	for _, rates := range []map[string]float64{doc.Rates, doc.Before, doc.Slots, doc.SlotsBefore} {
		for class, rate := range rates {
			if !possible(rate) {
				return Speeds{}, fmt.Errorf("class %.64q has the figure %g: want 1e-9 to 1e9", class, rate)
			}
		}
	}
	return doc, nil
}

// SlotsAt returns the slots in effect.
func (d Speeds) SlotsAt(t time.Time) map[string]float64 {
	if t.Before(d.Since) {
		return d.SlotsBefore
	}
	return d.Slots
}

// At returns the rates in effect and how long they have been in effect, or 0 while a change is
// pending.
func (d Speeds) At(t time.Time) (rates map[string]float64, age time.Duration) {
	if t.Before(d.Since) {
		return d.Before, 0
	}
	return d.Rates, t.Sub(d.Since)
}
