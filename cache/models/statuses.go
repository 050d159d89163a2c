package models

import (
	"cmp"
	"slices"

	"aliquot/internal/cacheapi"
)

// Models lists the models that were asked for since the start.
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
