package watch

import (
	"maps"
	"slices"
	"time"

	"aliquot.example/ui/view"
)

// deciding is for how long at a time the page decides for one service: the first hour of it
// takes a few such turns.
const deciding = 150 * time.Millisecond

// outlook is what the policies of one service would do.
type outlook struct {
	replay view.Replay
	// whole is the last one without a missing step, nil before the first.
	whole *view.Outlook
}

// decide finds what the policies of services would do, of those where somebody looks at
// that. Only one call runs at a time.
func (w *Watch) decide(services []string) {
	w.mu.Lock()
	wanted := slices.DeleteFunc(services, func(name string) bool { return w.judged[name] == 0 })
	maps.DeleteFunc(w.outlooks, func(name string, _ *outlook) bool { return !slices.Contains(wanted, name) })
	maps.DeleteFunc(w.next, func(name string, _ []view.Next) bool { return !slices.Contains(wanted, name) })
	w.mu.Unlock()
	for _, name := range wanted {
		w.decideFor(name)
	}
}

func (w *Watch) decideFor(service string) {
	w.mu.Lock()
	policies, read := w.policiesOf(service)
	if !read {
		w.mu.Unlock()
		return
	}
	memory := *w.memoryOf(service) // what is in it is never changed
	o := w.outlooks[service]
	if o == nil {
		o = &outlook{}
		w.outlooks[service] = o
	}
	w.mu.Unlock()
	began := time.Now()
	more := o.replay.Continue(policies, &memory, began.Unix(), func() bool { return time.Since(began) > deciding })
	next := o.replay.Next(&memory, began)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !more && o.replay.Changed() {
		o.whole = o.replay.Outlook(service, &memory, began)
	}
	w.next[service] = next
	w.tell()
}

// policiesOf are those of a service, with its curves; false while these are not read that an
// objective needs. w.mu is held.
func (w *Watch) policiesOf(service string) (out []view.Policy, read bool) {
	found, read := w.curves[service]
	for _, p := range w.policies {
		if p.Service != service {
			continue
		}
		if promises(p) && !read {
			return nil, false
		}
		p.Curves, p.CurvesProblem = &found.known, found.problem
		out = append(out, p)
	}
	return out, true
}

// Outlook returns what the policies of a service would have done, nil while that is not
// known. It is the same value until there is more.
func (w *Watch) Outlook(service string) *view.Outlook {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.outlooks[service]; o != nil {
		return o.whole
	}
	return nil
}
