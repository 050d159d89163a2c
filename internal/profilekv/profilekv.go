// Package profilekv keeps the profiles of services in Consul's KV, where aliquot bench
// writes them and gateways, router and autoscaler read them.
package profilekv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/internal/learned"
)

// Listed is what Consul holds.
type Listed struct {
	// Profiles are by service.
	Profiles map[string][]learned.Profile
	// Bad says by service which documents are left out, and why.
	Bad map[string][]error
	// Version changes, by service, with every key that is written, added or deleted.
	Version map[string]uint64
	// Index is that of the answer, to wait for the next; 0 where none may be read.
	Index uint64
}

// List reads the profiles of a service, or where that is "" of all services. What the token
// may not read counts as not there: profiles help who can read them, and nobody needs them.
func List(client *consul.Client, service string, q *consul.QueryOptions) (Listed, error) {
	folder := learned.ProfilesPrefix + "/"
	if service != "" {
		folder += service + "/"
	}
	pairs, meta, err := client.KV().List(folder, q)
	var status consul.StatusError
	if errors.As(err, &status) && status.Code == http.StatusForbidden {
		return Listed{}, nil
	}
	if err != nil {
		return Listed{}, fmt.Errorf("profiles in Consul: %w", err)
	}
	l := Listed{
		Profiles: map[string][]learned.Profile{}, Bad: map[string][]error{},
		Version: map[string]uint64{}, Index: meta.LastIndex,
	}
	for _, pair := range pairs {
		name, _, ok := strings.Cut(strings.TrimPrefix(pair.Key, learned.ProfilesPrefix+"/"), "/")
		if !ok || len(pair.Value) == 0 { // a folder
			continue
		}
		l.Version[name] = next(l.Version[name], pair)
		doc, err := learned.ParseProfiles(pair.Value)
		if err != nil {
			l.Bad[name] = append(l.Bad[name], fmt.Errorf("%s: %w", pair.Key, err))
			continue
		}
		l.Profiles[name] = append(l.Profiles[name], doc.Profiles...)
	}
	return l, nil
}

// next is the version of a service's keys with one more.
func next(version uint64, pair *consul.KVPair) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d", version, pair.Key, pair.ModifyIndex)
	return h.Sum64()
}

// Reach fails where no profile of a service could be saved, because Consul is not there or the
// token may not read what it holds: a benchmark asks before it measures for minutes.
func Reach(ctx context.Context, client *consul.Client, service string) error {
	_, _, err := client.KV().Get(learned.ProfilesPrefix+"/"+service+"/", (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("profiles cannot be saved in Consul: %w", err)
	}
	return nil
}

// attempts bounds how often a write is tried that others are faster than.
const attempts = 10

// Save adds a profile to those of its kind of replica, and returns the one that was the
// newest before, the zero Profile where there was none.
func Save(ctx context.Context, client *consul.Client, service string, p learned.Profile) (
	before learned.Profile, err error,
) {
	if err := p.Check(); err != nil {
		return before, err
	}
	key := learned.ProfileKey(service, p.Class, p.Slices)
	for range attempts {
		pair, _, err := client.KV().Get(key, (&consul.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return before, fmt.Errorf("profiles in Consul: %w", err)
		}
		doc, index := learned.Profiles{}, uint64(0)
		if pair != nil {
			index = pair.ModifyIndex
			if doc, err = learned.ParseProfiles(pair.Value); err != nil {
				return before, fmt.Errorf("key %s: %w: delete it with consul kv delete", key, err)
			}
		}
		before = doc.Last()
		doc.Add(p)
		value, err := json.Marshal(doc)
		if err != nil {
			return before, err
		}
		pair = &consul.KVPair{Key: key, Value: value, ModifyIndex: index}
		ok, _, err := client.KV().CAS(pair, (&consul.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return before, fmt.Errorf("profile in Consul: %w", err)
		}
		if ok {
			return before, nil
		}
	}
	return before, errors.New("profile in Consul: others write the key " + key + " all the time")
}
