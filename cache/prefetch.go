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

	"aliquot.example/cache/engine"
	"aliquot.example/cache/models"
	"aliquot.example/cache/snapshots"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/turn"
)

// prefetcher fetches the models, images and compile caches of lists to the node before a task needs
// them.
type prefetcher struct {
	library      *models.Library
	compileCache *snapshots.Cache
	engine       *engine.Engine // nil where no images are pulled
	registry     string         // host and port of the endpoint of registries, "" where it is off
	client       *api.Client    // nil for the list of the configuration alone
	key          string         // prefix in Consul KV
	groups       []string       // lists below it
	fixed        []string
	turns        turn.Turns
	self         string
	log          *slog.Logger
}

const (
	// prefetchOwner is the owner of the pins of prefetched models.
	prefetchOwner = "prefetch"
	// prefetchRetry is how long after a failure it is tried again, and how often it is
	// looked whether branches have moved, images have gone and jobs have compiled more.
	prefetchRetry = 5 * time.Minute
	// pullTimeout bounds the pull of one image.
	pullTimeout = time.Hour
)

// run follows the lists until the context ends.
func (p *prefetcher) run(ctx context.Context) {
	index := uint64(0)
	for ctx.Err() == nil {
		list, next, err := p.list(ctx, index)
		if err != nil {
			if ctx.Err() == nil {
				p.log.Warn("cannot read the prefetch lists", "error", err)
			}
			next = 0
		} else if err := p.fetchList(ctx, list); err != nil && ctx.Err() == nil {
			p.log.Warn("cannot prefetch all items; trying again", "error", err)
		}
		if p.client == nil || err != nil {
			select {
			case <-time.After(prefetchRetry):
			case <-ctx.Done():
			}
		}
		index = next
	}
}

// list reads the lists. It waits while they have not changed since index.
func (p *prefetcher) list(ctx context.Context, index uint64) (list []string, next uint64, err error) {
	list = slices.Clone(p.fixed)
	if p.client == nil {
		return list, 0, nil
	}
	pairs, meta, err := p.client.KV().List(p.key+"/", (&api.QueryOptions{WaitIndex: index, WaitTime: prefetchRetry}).
		WithContext(ctx))
	if err != nil {
		return nil, 0, err
	}
	for _, pair := range pairs {
		if !slices.Contains(p.groups, pair.Key[len(p.key)+1:]) {
			continue
		}
		var more []string
		if err := json.Unmarshal(pair.Value, &more); err != nil {
			p.log.Error("ignoring a prefetch list that is not a JSON list of names", "key", pair.Key,
				"error", err)
			continue
		}
		list = append(list, more...)
	}
	slices.Sort(list)
	return slices.Compact(list), meta.LastIndex, nil
}

// fetchList fetches what is missing of a list, in the node's turn, and pins all that can be
// pinned in place of what was.
func (p *prefetcher) fetchList(ctx context.Context, list []string) (err error) {
	var views []string
	for _, name := range list {
		more, failed := p.fetchItem(ctx, name)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, failed))
		}
		views = append(views, more...)
	}
	if err != nil {
		// The pinned view of a model that failed now may be its last good revision.
		views = append(views, p.library.Cache.Store().Pins()[prefetchOwner]...)
	}
	slices.Sort(views)
	views = slices.Compact(views)
	views = slices.DeleteFunc(views, func(v string) bool { return p.library.Cache.Store().View(v) == "" })
	if failed := p.library.Cache.Store().Pin(prefetchOwner, views...); failed != nil {
		return errors.Join(err, failed)
	}
	p.log.Info("prefetched", "models", len(views))
	return err
}

// fetchItem brings one item of a list, and names the views to pin for it.
func (p *prefetcher) fetchItem(ctx context.Context, text string) (views []string, err error) {
	item, err := blob.ParseItem(text)
	if err != nil {
		return nil, err
	}
	switch item.Kind {
	case blob.ImageItem:
		return nil, p.image(ctx, item.Name)
	case blob.CompiledItem:
		return p.compiled(ctx, item.Name)
	}
	return p.model(ctx, item.Name)
}

// inTurn runs do, which uses the network, within the node's turn.
func (p *prefetcher) inTurn(ctx context.Context, do func() error) error {
	if p.client == nil || p.turns.Max == 0 {
		return do()
	}
	if err := p.turns.Take(ctx, p.self); err != nil {
		return err
	}
	defer func() {
		if failed := p.turns.Release(context.WithoutCancel(ctx), p.self); failed != nil &&
			!errors.Is(failed, turn.ErrUnheld) {
			p.log.Warn("cannot release a turn", "error", failed)
		}
	}()
	return do()
}

func (p *prefetcher) model(ctx context.Context, name string) (views []string, err error) {
	if view, ok := p.library.Complete(ctx, name); ok {
		return []string{view}, nil
	}
	err = p.inTurn(ctx, func() error {
		job, err := p.library.Fetch(ctx, cacheapi.Fetch{Model: name, Owner: prefetchOwner})
		if err != nil {
			return err
		}
		select {
		case <-job.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		if m := job.Status(); m.State != cacheapi.Whole {
			return errors.New(m.Error)
		}
		views = []string{job.View()}
		return nil
	})
	return views, err
}

// image makes the container engine pull a missing image. The engine keeps an image that a Nomad
// task has used for as long as the driver's configuration says.
func (p *prefetcher) image(ctx context.Context, name string) error {
	if p.engine == nil {
		return errors.New("prefetch.docker is off on this node")
	}
	if here, err := p.engine.Has(ctx, name); here || err != nil {
		return err
	}
	return p.inTurn(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, pullTimeout)
		defer cancel()
		began := time.Now()
		if err := p.pull(ctx, name); err != nil {
			return err
		}
		p.log.Info("pulled an image", "image", name, "took", time.Since(began).Round(time.Millisecond).String())
		return nil
	})
}

// compiled copies the compile caches of a job from the peers that have them.
func (p *prefetcher) compiled(ctx context.Context, scope string) (views []string, err error) {
	keys, missing := p.compileCache.Of(ctx, scope)
	if missing {
		err = p.inTurn(ctx, func() error { return p.compileCache.Fetch(ctx, keys) })
	}
	for _, key := range keys {
		views = append(views, snapshots.View(key))
	}
	return views, err
}

// pull pulls an image through the cache's own endpoint where that can be, so that the cluster
// reads it once.
func (p *prefetcher) pull(ctx context.Context, name string) error {
	if p.registry != "" {
		through, _, err := pulled(p.registry, name)
		if err == nil {
			err = p.engine.PullAs(ctx, through, name)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		p.log.Warn("cannot pull an image through the cache; pulling it from its registry", "image", name,
			"error", err)
	}
	return p.engine.Pull(ctx, name)
}
