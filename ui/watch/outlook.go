package watch

import (
	"maps"
	"slices"
	"time"

	"aliquot.example/ui/view"
)

// deciding is the longest time per turn for the decisions of one service. The first hour takes a few
// turns.
const deciding = 150 * time.Millisecond

// outlook is the replay of the policies of one service.
type outlook struct {
	replay view.Replay
	// whole is the last complete outlook, nil before the first.
	whole *view.Outlook
}

// decide replays the policies of those services whose scaling a browser shows. Only one call runs
// at a time.
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
	memory := *w.memoryOf(service) // a shallow copy is enough: its elements never change
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
	w.signal()
}

// policiesOf returns the policies of a service with its curves. read is false while curves that an
// objective needs have not been read. The caller holds w.mu.
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

// Outlook returns the last complete outlook of a service, nil if there is none. It returns the same
// pointer until there is a new one.
func (w *Watch) Outlook(service string) *view.Outlook {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.outlooks[service]; o != nil {
		return o.whole
	}
	return nil
}
