package watch

import (
	"context"
	"errors"
	"slices"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/ui/view"
)

// maxRequests limits the stored requests of each kind.
const maxRequests = 400

// readRequests reads the slow and the failed requests, while a browser shows them.
func (w *Watch) readRequests(ctx context.Context) {
	w.mu.Lock()
	wanted := w.viewed[view.RequestsView] > 0
	admins := w.admins()
	w.mu.Unlock()
	if !wanted {
		return
	}
	answers := make([]api.Requests, len(admins))
	errs := make([]error, len(admins))
	sideBySide(len(admins), func(i int) {
		asking, cancel := context.WithTimeout(ctx, w.timeFor(sourceOf(admins[i])))
		defer cancel()
		errs[i] = w.get(asking, admins[i], "/v1/requests", &answers[i])
	})
	out := api.Requests{Now: time.Now()}
	for i := range answers {
		if errs[i] == nil {
			out.Slow = append(out.Slow, answers[i].Slow...)
			out.Failed = append(out.Failed, answers[i].Failed...)
		}
	}
	if len(admins) > 0 && !slices.ContainsFunc(errs, func(err error) bool {
		return err == nil || errors.Is(err, errUnknown)
	}) {
		return // keep the old state; the page says that no gateway answers
	}
	for _, list := range []*[]api.Request{&out.Slow, &out.Failed} {
		slices.SortStableFunc(*list, func(a, b api.Request) int { return b.Began.Compare(a.Began) })
		*list = (*list)[:min(len(*list), maxRequests)]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = out
	w.signal()
}
