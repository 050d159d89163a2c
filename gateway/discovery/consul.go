package discovery

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
)

// waitTime is the longest wait of a blocking query.
const waitTime = 5 * time.Minute

// Health is the used part of Consul's health API.
type Health interface {
	Service(service, tag string, passing bool, q *consul.QueryOptions) ([]*consul.ServiceEntry,
		*consul.QueryMeta, error)
}

// Consul is a source of replicas: the healthy instances of a Consul service.
type Consul struct {
	Health Health
	Source config.ConsulSource
	Token  config.Secret
	Log    *slog.Logger
}

// Watch calls set whenever the instances change. It keeps the last instances while Consul does not
// answer, or while it leaves out some of them because the token may not read them.
func (c Consul) Watch(ctx context.Context, set func([]line.Replica)) {
	var index uint64
	var failed backoff
	mistakes, filtered := &onceLog{log: c.Log}, false
	var last []line.Replica
	for ctx.Err() == nil {
		token, err := c.Token.Read()
		var entries []*consul.ServiceEntry
		var meta *consul.QueryMeta
		if err == nil {
			q := (&consul.QueryOptions{WaitIndex: index, WaitTime: waitTime, Token: token}).WithContext(ctx)
			entries, meta, err = c.Health.Service(c.Source.Service, c.Source.Tag, true, q)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.Log.Warn("Consul does not answer; keeping the last known replicas", "service", c.Source.Service,
				"error", err)
			index = 0 // a restarted Consul may have lower indices
			failed.wait(ctx)
			continue
		}
		if meta.ResultsFilteredByACLs && !filtered {
			c.Log.Warn("Consul leaves out instances that the token may not read; give it service:read and node:read",
				"service", c.Source.Service, "instances", len(entries))
		}
		filtered = meta.ResultsFilteredByACLs
		found := replicasOf(entries, mistakes)
		if filtered && lacks(found, last) {
			// The missing instances may be healthy. The index does not change when the token gets the
			// permission, so poll.
			index = 0
			failed.wait(ctx)
			continue
		}
		failed = backoff{}
		if meta.LastIndex == index && index > 0 {
			continue // the wait ended without a change
		}
		if meta.LastIndex < index {
			index = 0
			continue
		}
		index = max(meta.LastIndex, 1)
		last = found
		set(found)
	}
}

// lacks reports whether found is a proper subset of before.
func lacks(found, before []line.Replica) bool {
	known := make(map[string]bool, len(before))
	for _, r := range before {
		known[r.ID] = true
	}
	for _, r := range found {
		if !known[r.ID] {
			return false
		}
	}
	return len(found) < len(before)
}

func replicasOf(entries []*consul.ServiceEntry, mistakes *onceLog) []line.Replica {
	var out []line.Replica
	for _, e := range entries {
		host := e.Service.Address
		if host == "" {
			host = e.Node.Address
		}
		address := net.JoinHostPort(host, strconv.Itoa(e.Service.Port))
		r := described(address, func(key string) string { return e.Service.Meta[key] }, mistakes)
		out = append(out, replica(e.Node.Node+"/"+e.Service.ID+"@"+address, r))
	}
	return out
}
