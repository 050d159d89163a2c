package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot/cache/models"
	"aliquot/internal/cacheapi"
	"aliquot/internal/turn"
)

// prefetcher brings the models of a list to the node before a task needs them.
type prefetcher struct {
	library *models.Library
	client  *api.Client // nil for the list of the configuration alone
	key     string      // prefix in Consul KV
	groups  []string    // lists below it
	fixed   []string
	turns   turn.Turns
	self    string
	log     *slog.Logger
}

const (
	// owner pins what was prefetched.
	prefetchOwner = "prefetch"
	// again is how long after a failure it is tried again, and how often branches are
	// looked at.
	prefetchAgain = 5 * time.Minute
)

// run follows the lists until the context ends.
func (p *prefetcher) run(ctx context.Context) {
	index := uint64(0)
	for ctx.Err() == nil {
		list, next, err := p.list(ctx, index)
		if err != nil {
			if ctx.Err() == nil {
				p.log.Warn("the lists of models to prefetch cannot be read", "error", err)
			}
			next = 0
		} else if err := p.bring(ctx, list); err != nil && ctx.Err() == nil {
			p.log.Warn("not all models could be prefetched; they are tried again", "error", err)
		}
		if p.client == nil || err != nil {
			select {
			case <-time.After(prefetchAgain):
			case <-ctx.Done():
			}
		}
		index = next
	}
}

// list reads the lists, and waits where they are as they were at the index.
func (p *prefetcher) list(ctx context.Context, index uint64) (list []string, next uint64, err error) {
	list = slices.Clone(p.fixed)
	if p.client == nil {
		return list, 0, nil
	}
	pairs, meta, err := p.client.KV().List(p.key+"/", (&api.QueryOptions{WaitIndex: index, WaitTime: prefetchAgain}).WithContext(ctx))
	if err != nil {
		return nil, 0, err
	}
	for _, pair := range pairs {
		if !slices.Contains(p.groups, pair.Key[len(p.key)+1:]) {
			continue
		}
		var more []string
		if err := json.Unmarshal(pair.Value, &more); err != nil {
			p.log.Error("a list of models to prefetch is no JSON list of names and is left out", "key", pair.Key, "error", err)
			continue
		}
		list = append(list, more...)
	}
	slices.Sort(list)
	return slices.Compact(list), meta.LastIndex, nil
}

// bring fetches what is missing of a list, in the node's turn, and pins all of it in
// place of what was pinned.
func (p *prefetcher) bring(ctx context.Context, list []string) (err error) {
	var views []string
	for _, name := range list {
		view, failed := p.one(ctx, name)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, failed))
			continue
		}
		views = append(views, view)
	}
	if err != nil {
		// What is pinned of a model that failed now may be its last good revision.
		views = append(views, p.library.Cache.Store().Pins()[prefetchOwner]...)
		slices.Sort(views)
		views = slices.Compact(views)
	}
	views = slices.DeleteFunc(views, func(v string) bool { return p.library.Cache.Store().View(v) == "" })
	return errors.Join(err, p.library.Cache.Store().Pin(prefetchOwner, views...))
}

func (p *prefetcher) one(ctx context.Context, name string) (view string, err error) {
	if view, ok := p.library.Here(ctx, name); ok {
		return view, nil
	}
	if p.client != nil && p.turns.Most > 0 {
		if err := p.turns.Take(ctx, p.self); err != nil {
			return "", err
		}
		defer func() {
			if failed := p.turns.Release(context.WithoutCancel(ctx), p.self); failed != nil && !errors.Is(failed, turn.ErrUnheld) {
				p.log.Warn("a turn could not be given back", "error", failed)
			}
		}()
	}
	job, err := p.library.Fetch(ctx, cacheapi.Fetch{Model: name, Owner: prefetchOwner})
	if err != nil {
		return "", err
	}
	select {
	case <-job.Done():
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if m := job.Status(); m.State != cacheapi.Whole {
		return "", errors.New(m.Error)
	}
	return job.View(), nil
}
