package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/weigh"
	"aliquot.example/router"
)

// head has the fields that are read from every entry, whoever wrote it.
type head struct {
	Name        string
	Protocol    string
	Meta        map[string]string
	ModifyIndex uint64
	// A hand-written entry may have no timeout.
	LocalRequestTimeoutMs int
	Routes                []struct {
		Destination *struct{ RequestTimeout string }
	}
}

// timeout summarizes the request timeouts of an entry that is not ours: -1 if it has them, 0 if it
// or any of its routes has none.
func (h head) timeout() time.Duration {
	for _, r := range h.Routes {
		if r.Destination == nil || r.Destination.RequestTimeout == "" {
			return 0
		}
	}
	if len(h.Routes) > 0 || h.LocalRequestTimeoutMs > 0 {
		return -1
	}
	return 0
}

// decode decodes an entry of Consul. For an entry that is not ours, it keeps only the name, the
// protocol and whether it has timeouts.
func (c *Client) decode(kind weigh.Kind, text []byte) (router.Stored, error) {
	var h head
	if err := json.Unmarshal(text, &h); err != nil {
		return router.Stored{}, fmt.Errorf("cannot decode a %s from Consul: %w", kind, err)
	}
	key := weigh.Key{Kind: kind, Name: h.Name}
	s := router.Stored{Service: h.Meta[metaService]}
	s.Entry.Key, s.Entry.Protocol, s.Index = key, h.Protocol, h.ModifyIndex
	if s.Ours = h.Meta[metaOwner] == c.owner && s.Service != ""; !s.Ours {
		s.Entry.Tuning.RequestTimeout = h.timeout()
		return s, nil
	}
	e, err := api.MakeConfigEntry(string(kind), h.Name)
	if err == nil {
		err = json.Unmarshal(text, e)
	}
	if err != nil {
		// The entry has our mark but not our form: the router overwrites it.
		return s, nil
	}
	normalize(e)
	s.Entry = parse(key, e)
	s.Exact = exact(e, encode(s.Entry, c.owner, s.Service, e))
	c.remember(key, s.Index, e)
	return s, nil
}

// parse is the inverse of encode, for the fields that weigh.Entry has.
func parse(key weigh.Key, e api.ConfigEntry) weigh.Entry {
	out := weigh.Entry{Key: key, Tuning: written(e)}
	switch e := e.(type) {
	case *api.ServiceConfigEntry:
		out.Protocol = e.Protocol
	case *api.ServiceResolverConfigEntry:
		for name, s := range e.Subsets {
			subset := weigh.Subset{Name: name, Filter: s.Filter}
			for _, t := range e.Failover[name].Targets {
				subset.Failover = append(subset.Failover, t.ServiceSubset)
			}
			out.Subsets = append(out.Subsets, subset)
		}
		weigh.SortSubsets(out.Subsets)
	case *api.ServiceSplitterConfigEntry:
		for _, s := range e.Splits {
			service := s.Service
			if service == "" {
				service = key.Name
			}
			out.Splits = append(out.Splits, weigh.Split{Service: service, Subset: s.ServiceSubset,
				Hundredths: int(math.Round(float64(s.Weight) * 100))})
		}
	case *api.ServiceRouterConfigEntry:
		for _, r := range e.Routes {
			out.Routes = append(out.Routes, parseRoute(r))
		}
	}
	return out
}

func parseRoute(r api.ServiceRoute) weigh.Route {
	var out weigh.Route
	if r.Match != nil && r.Match.HTTP != nil {
		out.PathPrefix = r.Match.HTTP.PathPrefix
		for _, h := range r.Match.HTTP.Header {
			out.Headers = append(out.Headers, weigh.HeaderMatch{Name: h.Name, Exact: h.Exact, Regex: h.Regex,
				Present: h.Present})
		}
	}
	if r.Destination != nil {
		out.Service, out.Subset = r.Destination.Service, r.Destination.ServiceSubset
	}
	return out
}

// normalize removes what Consul itself adds to an entry.
func normalize(e api.ConfigEntry) {
	switch e := e.(type) {
	case *api.ServiceConfigEntry:
		e.CreateIndex, e.ModifyIndex, e.Partition, e.Namespace = 0, 0, "", ""
		if e.TransparentProxy != nil && *e.TransparentProxy == (api.TransparentProxyConfig{}) {
			e.TransparentProxy = nil // Consul returns an empty struct for nil
		}
	case *api.ServiceResolverConfigEntry:
		e.CreateIndex, e.ModifyIndex, e.Partition, e.Namespace = 0, 0, "", ""
	case *api.ServiceSplitterConfigEntry:
		e.CreateIndex, e.ModifyIndex, e.Partition, e.Namespace = 0, 0, "", ""
		for i, s := range e.Splits {
			if s.Service == "" {
				e.Splits[i].Service = e.Name
			}
		}
	case *api.ServiceRouterConfigEntry:
		e.CreateIndex, e.ModifyIndex, e.Partition, e.Namespace = 0, 0, "", ""
	}
}

// exact reports whether writing ours over got would change nothing.
func exact(got, ours api.ConfigEntry) bool {
	a, errA := json.Marshal(got)
	b, errB := json.Marshal(ours)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
