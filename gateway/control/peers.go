package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/peers"
	"aliquot.example/internal/ownership"
)

// MetaPeers is the key of a gateway's meta in Consul with its address for other gateways.
const MetaPeers = "peers"

// Registry reads the gateways, and reads and writes the owners of services, in Consul. It implements
// peers.Registry.
type Registry struct {
	Client *consul.Client
	Config *config.Consul
	Log    *slog.Logger
}

// owner is the document of a service's owner in Consul KV.
type owner struct {
	Version int          `json:"version"`
	Epoch   uint64       `json:"epoch"`
	Owner   ownership.ID `json:"owner"`
}

const ownerVersion = 1

// blockingWait is the longest wait of a blocking query. It is short so that a hanging agent is noticed.
const blockingWait = 10 * time.Second

// Gateways implements peers.Registry.
func (r *Registry) Gateways(ctx context.Context, set func([]peers.Gateway)) {
	r.watch(ctx, func(q *consul.QueryOptions) (*consul.QueryMeta, func(), error) {
		entries, meta, err := r.Client.Health().Service(r.Config.Service, "", false, q)
		return meta, func() {
			var found []peers.Gateway
			for _, e := range entries {
				if at := e.Service.Meta[MetaPeers]; at != "" {
					found = append(found, peers.Gateway{ID: ownership.ID(at),
						Passing: e.Checks.AggregatedStatus() != consul.HealthCritical})
				}
			}
			set(found)
		}, err
	}, func(err error) {
		r.Log.Warn("cannot read the gateways from Consul; keeping the last known ones", "error", err)
	})
}

// Records implements peers.Registry.
func (r *Registry) Records(ctx context.Context, set func(map[string]ownership.Record, bool)) {
	r.watch(ctx, func(q *consul.QueryOptions) (*consul.QueryMeta, func(), error) {
		pairs, meta, err := r.Client.KV().List(r.prefix(), q)
		return meta, func() { set(r.records(pairs), true) }, err
	}, func(err error) {
		r.Log.Warn("cannot read the owners of services from Consul", "error", err)
		set(nil, false)
	})
}

// watch repeats a blocking query until ctx ends. It calls the returned function after each change,
// and failed at the first of several errors in a row.
func (r *Registry) watch(ctx context.Context, query func(*consul.QueryOptions) (*consul.QueryMeta, func(), error),
	failed func(error)) {
	var index uint64
	wait, logged := 100*time.Millisecond, false
	for ctx.Err() == nil {
		within, cancel := context.WithTimeout(ctx, 2*blockingWait)
		token, err := r.Config.Token.Read()
		var meta *consul.QueryMeta
		var got func()
		if err == nil {
			meta, got, err = query((&consul.QueryOptions{WaitIndex: index, WaitTime: blockingWait, Token: token}).
				WithContext(within))
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !logged {
				failed(err)
			}
			logged, index = true, 0
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, 2*time.Second)
			continue
		}
		wait, logged = 100*time.Millisecond, false
		if meta.LastIndex < index {
			index = 0
			continue
		}
		index = max(meta.LastIndex, 1)
		got()
	}
}

func (r *Registry) prefix() string { return ownersPrefix + "/" }

// ownersPrefix is the prefix of the keys with the owners of services.
const ownersPrefix = "aliquot/owners"

func (r *Registry) records(pairs consul.KVPairs) map[string]ownership.Record {
	out := map[string]ownership.Record{}
	for _, p := range pairs {
		if one, err := parseOwner(p.Value); err == nil {
			out[strings.TrimPrefix(p.Key, r.prefix())] = one
		} else {
			r.Log.Warn("ignoring an invalid document in Consul", "key", p.Key, "error", err)
		}
	}
	return out
}

func parseOwner(text []byte) (ownership.Record, error) {
	var doc owner
	if err := json.Unmarshal(text, &doc); err != nil {
		return ownership.Record{}, err
	}
	if doc.Version != ownerVersion {
		return ownership.Record{}, fmt.Errorf("unknown version %d: this release reads version %d", doc.Version,
			ownerVersion)
	}
	return ownership.Record{Epoch: doc.Epoch, Owner: doc.Owner}, nil
}

// Read implements peers.Registry.
func (r *Registry) Read(ctx context.Context) (map[string]ownership.Record, error) {
	token, err := r.Config.Token.Read()
	if err != nil {
		return nil, err
	}
	pairs, _, err := r.Client.KV().List(r.prefix(),
		(&consul.QueryOptions{RequireConsistent: true, Token: token}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	return r.records(pairs), nil
}

// Swap implements peers.Registry.
func (r *Registry) Swap(ctx context.Context, service string, old, next ownership.Record) (bool, error) {
	token, err := r.Config.Token.Read()
	if err != nil {
		return false, err
	}
	key := r.prefix() + service
	pair, _, err := r.Client.KV().Get(key,
		(&consul.QueryOptions{RequireConsistent: true, Token: token}).WithContext(ctx))
	if err != nil {
		return false, err
	}
	write := &consul.KVPair{Key: key}
	if pair != nil {
		if now, err := parseOwner(pair.Value); err != nil || now != old {
			return false, err
		}
		write.ModifyIndex = pair.ModifyIndex
	} else if old.Epoch != 0 {
		// Consul has lost the document. The next epoch is higher than any that this gateway knows.
		write.ModifyIndex = 0
	}
	if write.Value, err = json.Marshal(owner{ownerVersion, next.Epoch, next.Owner}); err != nil {
		return false, err
	}
	ok, _, err := r.Client.KV().CAS(write, (&consul.WriteOptions{Token: token}).WithContext(ctx))
	return ok, err
}
