package control

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/profilekv"
	"aliquot.example/router"
)

// optedIn selects the instances that opt in. It excludes their sidecars, which inherit the meta.
const optedIn = `ServiceMeta.` + gpu.MetaRoute + ` == "true" and ServiceKind == ""`

// Services lists the services with an instance that opts in by its meta. It waits until the catalog
// has changed since index, for at most wait.
func (c *Client) Services(ctx context.Context, index uint64, wait time.Duration) ([]string, uint64, error) {
	q := blocking(ctx, index, wait)
	q.Filter = optedIn
	names, meta, err := c.api.Catalog().Services(q)
	if err == nil && meta.ResultsFilteredByACLs && len(names) == 0 {
		err = router.ErrFiltered // a token may be limited to some services, but not to none
	}
	if err != nil {
		return nil, 0, fmt.Errorf("services: %w", err)
	}
	out := make([]string, 0, len(names))
	for name := range names {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, meta.LastIndex, nil
}

// healthEntry has only the used fields of the health API's response. Decoding the rest would be
// most of the work.
type healthEntry struct {
	Service struct {
		ID   string
		Kind string
		Meta map[string]string
	}
	Node   struct{ Node string }
	Checks []struct{ Status string }
}

// A short wait mostly ends without a change. Instances therefore first waits with a filter that
// matches nothing: Consul would otherwise send the full list after each wait.
const (
	probeBelow = time.Minute
	nothing    = `Service.ID == ""`
)

// Instances lists all instances of a service, passing or not. It waits until they have changed since
// index, for at most wait.
func (c *Client) Instances(ctx context.Context, service string, index uint64, wait time.Duration) ([]router.Registered,
	uint64, error) {
	path := "/v1/health/service/" + url.PathEscape(service)
	var entries []healthEntry
	if index != 0 && wait < probeBelow {
		q := blocking(ctx, index, wait)
		q.Filter = nothing
		meta, err := c.api.Raw().Query(path, &entries, q)
		if err != nil || meta.LastIndex == index {
			return nil, index, wrap(err, service)
		}
		index = 0
	}
	meta, err := c.api.Raw().Query(path, &entries, blocking(ctx, index, wait))
	if err == nil && meta.ResultsFilteredByACLs {
		err = router.ErrFiltered
	}
	if err != nil {
		return nil, 0, wrap(err, service)
	}
	out := make([]router.Registered, 0, len(entries))
	for _, e := range entries {
		r := router.Registered{ID: e.Node.Node + "/" + e.Service.ID, Meta: e.Service.Meta, Passing: true}
		for _, check := range e.Checks {
			r.Passing = r.Passing && check.Status == api.HealthPassing
		}
		if e.Service.Kind == "" {
			out = append(out, r)
		}
	}
	return out, meta.LastIndex, nil
}

func wrap(err error, service string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("instances of %s: %w", service, err)
}

// Rates lists the published rates of the gateways by service, one document per gateway. It waits
// until any of them has changed since index, for at most wait.
func (c *Client) Rates(ctx context.Context, index uint64, wait time.Duration) (map[string][][]byte, uint64, error) {
	pairs, meta, err := c.api.KV().List(c.rates+"/", blocking(ctx, index, wait))
	if err == nil && meta.ResultsFilteredByACLs {
		err = router.ErrFiltered
	}
	if err != nil {
		return nil, 0, fmt.Errorf("learned rates: %w", err)
	}
	out := map[string][][]byte{}
	for _, p := range pairs {
		service, _, ok := strings.Cut(strings.TrimPrefix(p.Key, c.rates+"/"), "/")
		if ok && len(p.Value) > 0 {
			out[service] = append(out[service], p.Value)
		}
	}
	return out, meta.LastIndex, nil
}

// Profiles lists the benchmark profiles. It waits until any of them has changed since index, for at
// most wait.
func (c *Client) Profiles(ctx context.Context, index uint64, wait time.Duration) (profilekv.Listed, error) {
	return profilekv.List(c.api, "", blocking(ctx, index, wait))
}

func blocking(ctx context.Context, index uint64, wait time.Duration) *api.QueryOptions {
	return (&api.QueryOptions{WaitIndex: index, WaitTime: wait}).WithContext(ctx)
}
