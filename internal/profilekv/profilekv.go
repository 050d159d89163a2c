// Package profilekv stores the profiles of services in Consul KV. aliquot bench writes them;
// gateways, router and autoscaler read them.
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

// Listed is the profiles in Consul.
type Listed struct {
	// Profiles are the profiles by service.
	Profiles map[string][]learned.Profile
	// Bad lists, by service, why documents were left out.
	Bad map[string][]error
	// Version changes, by service, when any of its keys is written, added or deleted.
	Version map[string]uint64
	// Index is the index of the answer, for a blocking query. It is 0 if the token may not read
	// profiles.
	Index uint64
}

// List reads the profiles of a service, or of all services if service is "". If the token may not
// read profiles, List returns none, because profiles are optional.
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

// next combines a version with one more key.
func next(version uint64, pair *consul.KVPair) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d", version, pair.Key, pair.ModifyIndex)
	return h.Sum64()
}

// Reach returns an error if Consul is unavailable or the token may not read the profiles of a
// service. A benchmark calls it before it measures for minutes.
func Reach(ctx context.Context, client *consul.Client, service string) error {
	_, _, err := client.KV().Get(learned.ProfilesPrefix+"/"+service+"/", (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("profiles cannot be saved in Consul: %w", err)
	}
	return nil
}

// attempts is the number of tries of a write that conflicts with others.
const attempts = 10

// Save adds a profile to those of its kind of replica. It returns the previously newest one, or the
// zero Profile.
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
	return before, errors.New("cannot write key " + key + " in Consul: other writers changed it at every attempt")
}
