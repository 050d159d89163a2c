package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"github.com/hashicorp/consul/api"

	"aliquot/internal/weigh"
	"aliquot/router"
)

// Meta keys of every entry that the router writes.
const (
	metaOwner   = "aliquot_owner"
	metaService = "aliquot_service" // the service that the entry serves
)

// encode turns a value into Consul's form.
func encode(e weigh.Entry, owner, service string) api.ConfigEntry {
	kind, name := string(e.Kind), e.Name
	meta := map[string]string{metaOwner: owner, metaService: service}
	switch e.Kind {
	case weigh.Defaults:
		return &api.ServiceConfigEntry{Kind: kind, Name: name, Protocol: e.Protocol, Meta: meta}
	case weigh.Resolver:
		r := &api.ServiceResolverConfigEntry{Kind: kind, Name: name, Meta: meta, Subsets: map[string]api.ServiceResolverSubset{}}
		for _, s := range e.Subsets {
			r.Subsets[s.Name] = api.ServiceResolverSubset{Filter: s.Filter, OnlyPassing: true}
			if len(s.Failover) == 0 {
				continue
			}
			if r.Failover == nil {
				r.Failover = map[string]api.ServiceResolverFailover{}
			}
			var f api.ServiceResolverFailover
			for _, target := range s.Failover {
				f.Targets = append(f.Targets, api.ServiceResolverFailoverTarget{Service: name, ServiceSubset: target})
			}
			r.Failover[s.Name] = f
		}
		return r
	case weigh.Splitter:
		s := &api.ServiceSplitterConfigEntry{Kind: kind, Name: name, Meta: meta}
		for _, split := range e.Splits {
			s.Splits = append(s.Splits, api.ServiceSplit{Service: split.Service, ServiceSubset: split.Subset, Weight: float32(split.Hundredths) / 100})
		}
		return s
	case weigh.Router:
		r := &api.ServiceRouterConfigEntry{Kind: kind, Name: name, Meta: meta}
		for _, route := range e.Routes {
			r.Routes = append(r.Routes, encodeRoute(route))
		}
		return r
	}
	panic("unknown kind " + kind) // Validate has refused it
}

func encodeRoute(r weigh.Route) api.ServiceRoute {
	match := &api.ServiceRouteHTTPMatch{PathPrefix: r.PathPrefix}
	for _, h := range r.Headers {
		match.Header = append(match.Header, api.ServiceRouteHTTPMatchHeader{Name: h.Name, Exact: h.Exact, Regex: h.Regex, Present: h.Present})
	}
	return api.ServiceRoute{
		Match:       &api.ServiceRouteMatch{HTTP: match},
		Destination: &api.ServiceRouteDestination{Service: r.Service, ServiceSubset: r.Subset},
	}
}

// head is what is read of any entry, whoever wrote it.
type head struct {
	Name        string
	Protocol    string
	Meta        map[string]string
	ModifyIndex uint64
}

// decode reads an entry as Consul gives it. Of an entry that is not ours only the
// name and protocol are kept.
func (c *Client) decode(kind weigh.Kind, text []byte) (router.Stored, error) {
	var h head
	if err := json.Unmarshal(text, &h); err != nil {
		return router.Stored{}, fmt.Errorf("a %s is not the expected JSON: %w", kind, err)
	}
	key := weigh.Key{Kind: kind, Name: h.Name}
	s := router.Stored{Service: h.Meta[metaService]}
	s.Entry.Key, s.Entry.Protocol, s.Index = key, h.Protocol, h.ModifyIndex
	if s.Ours = h.Meta[metaOwner] == c.owner && s.Service != ""; !s.Ours {
		return s, nil
	}
	e, err := api.MakeConfigEntry(string(kind), h.Name)
	if err == nil {
		err = json.Unmarshal(text, e)
	}
	if err != nil {
		// Ours by its mark, but not as we write it: to be written anew.
		return s, nil
	}
	s.Entry = parse(key, e)
	s.Exact = exact(e, encode(s.Entry, c.owner, s.Service))
	return s, nil
}

// parse is the inverse of encode, as far as a value can hold an entry.
func parse(key weigh.Key, e api.ConfigEntry) weigh.Entry {
	out := weigh.Entry{Key: key}
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
			out.Splits = append(out.Splits, weigh.Split{Service: service, Subset: s.ServiceSubset, Hundredths: int(math.Round(float64(s.Weight) * 100))})
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
			out.Headers = append(out.Headers, weigh.HeaderMatch{Name: h.Name, Exact: h.Exact, Regex: h.Regex, Present: h.Present})
		}
	}
	if r.Destination != nil {
		out.Service, out.Subset = r.Destination.Service, r.Destination.ServiceSubset
	}
	return out
}

// exact says whether got is what we would write: nothing was added by others.
func exact(got, ours api.ConfigEntry) bool {
	switch e := got.(type) {
	case *api.ServiceConfigEntry:
		e.CreateIndex, e.ModifyIndex, e.Partition, e.Namespace = 0, 0, "", ""
		if e.TransparentProxy != nil && *e.TransparentProxy == (api.TransparentProxyConfig{}) {
			e.TransparentProxy = nil // Consul gives an empty one where none was written
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
	a, errA := json.Marshal(got)
	b, errB := json.Marshal(ours)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
