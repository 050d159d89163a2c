package demand

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/autoscaler-plugin/guard"
	"aliquot.example/autoscaler-plugin/settings"
	"aliquot.example/internal/api"
	"aliquot.example/internal/learned"
)

// members is the set of gateways at one moment.
type members struct {
	known []member
	// stale is the error of Consul if known is its last answer.
	stale error
	// goneUntil is the time until which a gateway that no longer exists may have taken demand that no
	// other remembers. It is the zero time if there is none.
	goneUntil time.Time
}

func (g *Gateways) members(ctx context.Context, service string, now time.Time) (members, error) {
	if g.Consul == nil {
		known := make([]member, len(g.Fixed))
		for i, address := range g.Fixed {
			known[i] = member{address, address}
		}
		return members{known: known}, nil
	}
	options := (&consul.QueryOptions{}).WithContext(ctx)
	// Also query critical gateways. One may have died with part of the demand, and without it that
	// part would seem to be gone.
	entries, meta, err := g.Consul.Health().Service(g.Service, "", false, options)
	var pairs consul.KVPairs
	if err = settings.Whole(meta, err); err == nil {
		pairs, meta, err = g.Consul.KV().List(g.Rates+"/"+service+"/", options)
		err = settings.Whole(meta, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		if g.last == nil {
			return members{}, fmt.Errorf("gateways cannot be looked up in Consul: %w", guard.Plain(err))
		}
		return members{known: g.last, stale: guard.Plain(err)}, nil
	}
	var known []member
	for _, e := range entries {
		m := member{id: e.Service.ID, admin: e.Service.Meta[api.MetaAdmin]}
		if m.admin == "" {
			return members{}, fmt.Errorf("gateway %s is registered in Consul without the meta key %s", m.id,
				api.MetaAdmin)
		}
		known = append(known, m)
	}
	if len(known) == 0 {
		return members{}, fmt.Errorf("no gateway is registered in Consul as %q", g.Service)
	}
	g.last = known
	return members{known: known, goneUntil: lastSeen(pairs, known, now.Add(g.StaleAfter))}, nil
}

// publishInterval is the interval at which gateways publish, and so the maximum time from a gateway's
// last sign to its end.
const publishInterval = 10 * time.Second

// lastSeen returns the newest sign of life of a gateway that no longer exists, from the rates that
// gateways publish. It ignores signs after latest: they come from a wrong clock and would keep
// counts from shrinking until then.
func lastSeen(pairs consul.KVPairs, known []member, latest time.Time) time.Time {
	here := map[string]bool{}
	for _, m := range known {
		here[identity(m.id)] = true
	}
	var newest time.Time
	for _, pair := range pairs {
		doc, _ := learned.ParseRates(pair.Value)
		if here[identity(path.Base(pair.Key))] || doc.Updated.IsZero() || doc.Updated.After(latest) {
			continue
		}
		if sign := doc.Updated.Add(publishInterval); sign.After(newest) {
			newest = sign
		}
	}
	return newest
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// identity returns what the ID of a gateway's service and the key of its rates have in common: the
// allocation ID if Nomad runs the gateway, otherwise the whole ID.
func identity(id string) string {
	if alloc := uuid.FindString(id); alloc != "" {
		return alloc
	}
	return id
}
