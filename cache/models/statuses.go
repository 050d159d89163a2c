package models

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"

	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// Models lists the models requested since the start that are whole, being fetched, or among the
// last that failed.
func (l *Library) Models() []cacheapi.Model {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []cacheapi.Model{}
	for _, j := range l.jobs {
		all = append(all, j.Status())
	}
	slices.SortFunc(all, func(a, b cacheapi.Model) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Revision, b.Revision))
	})
	return all
}

// maxFailed bounds the failed jobs that are kept, for their statuses.
const maxFailed = 50

// prune removes jobs whose models were evicted, and the oldest failed ones, because each holds a
// list of a repository's files. The caller holds the lock.
func (l *Library) prune() {
	var failed []string
	for name, j := range l.jobs {
		switch {
		case j.evicted():
			delete(l.jobs, name)
		case j.Status().State == cacheapi.Failed:
			failed = append(failed, name)
		}
	}
	slices.SortFunc(failed, func(a, b string) int { return l.jobs[a].started.Compare(l.jobs[b].started) })
	for _, name := range failed[:max(0, len(failed)-maxFailed)] {
		delete(l.jobs, name)
	}
}

// Held lists the names of all models that are whole on this node.
func (l *Library) Held() []string {
	held := []string{}
	for _, view := range l.Cache.Store().Views() {
		// A view may be removed at this moment.
		if name, err := os.ReadFile(filepath.Join(l.Cache.Store().Dir(), "views", view, named)); err == nil {
			held = append(held, string(name))
		}
	}
	slices.Sort(held)
	return slices.Compact(held)
}

// View returns the name of the job's view.
func (j *Job) View() string { return j.view.Name }

// Complete reports whether a model is whole on this node, at the revision that its origin names now,
// and returns the name of its view.
func (l *Library) Complete(ctx context.Context, name string) (view string, ok bool) {
	ref, err := blob.ParseRef(name)
	if err != nil {
		return "", false
	}
	listing, err := l.List(ctx, ref, "")
	if err != nil {
		return "", false
	}
	view = layout(ref, listing.Revision, listing.Files).Name
	return view, l.Cache.Store().View(view) != ""
}
