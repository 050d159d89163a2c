package view

import (
	"slices"
	"strings"
	"time"
)

// Events is the view of events.
type Events struct {
	Sources []Source `json:"sources"`
	// Began is when this program started: it knows changes of health only since then.
	Began  time.Time `json:"began"`
	Events []Event   `json:"events"`
}

// Event is one event as text.
type Event struct {
	At time.Time `json:"at"`
	// Kind is health, task or scaling.
	Kind  string `json:"kind"`
	Where string `json:"where"`
	Alloc string `json:"alloc,omitempty"`
	Text  string `json:"text"`
	// Remedy is the remedy in docs/operations.md.
	Remedy string `json:"remedy,omitempty"`
	Bad    bool   `json:"bad,omitempty"`
}

const (
	// maxEventAge is the largest age of an event.
	maxEventAge = time.Hour
	// maxEvents is the largest number of events, the newest ones.
	maxEvents = 500
)

// EventsOf returns the events of the last hour, the newest first.
func EventsOf(f Facts) Events {
	out := Events{Sources: f.Sources, Began: f.Began, Events: []Event{}}
	for _, s := range f.Seen {
		where := s.Node
		if s.GPU != "" {
			where += ", " + s.GPU
		}
		out.Events = append(out.Events, Event{At: s.At, Kind: "health", Where: where, Text: s.Text, Bad: s.Bad})
	}
	for _, c := range f.Changes {
		out.Events = append(out.Events, Event{At: c.At, Kind: "scaling", Where: c.Job + "/" + c.Group, Text: counted(c),
			Bad: c.Failed})
	}
	old := f.At.Add(-maxEventAge)
	for _, e := range taskEvents(f.Allocs, old) {
		a := e.of
		out.Events = append(out.Events, Event{
			At: e.At, Kind: "task", Where: a.Job + "/" + a.Group + " on " + a.Node, Alloc: a.ID,
			Text: strings.TrimSpace(e.Text), Bad: e.Failed,
		})
	}
	out.Events = slices.DeleteFunc(out.Events, func(e Event) bool { return e.At.Before(old) })
	slices.SortStableFunc(out.Events, func(a, b Event) int { return b.At.Compare(a.At) })
	out.Events = out.Events[:min(len(out.Events), maxEvents)]
	for i := range out.Events {
		out.Events[i].Remedy = remedyOf(out.Events[i].Text)
	}
	return out
}

// taskOf is an event of an allocation's task.
type taskOf struct {
	*TaskEvent
	of *Alloc
}

// taskEvents returns the newest relevant events, at most maxEvents: thousands of allocations may
// have ten each.
func taskEvents(allocs []Alloc, since time.Time) (out []taskOf) {
	for i := range allocs {
		a := &allocs[i]
		for k := range a.Events {
			if e := &a.Events[k]; !e.At.Before(since) && relevant(a, e) && strings.TrimSpace(e.Text) != "" {
				out = append(out, taskOf{e, a})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b taskOf) int { return b.At.Compare(a.At) })
	return out[:min(len(out), maxEvents)]
}

// relevant reports whether an event is relevant: a failure, or a driver's event of a task that holds
// slices. Nomad's own steps of every start are not.
func relevant(a *Alloc, e *TaskEvent) bool {
	return e.Failed || a.Slices > 0 && e.Type == "Driver" || e.Type == "Driver Failure" || e.Type == "Terminated" &&
		!strings.Contains(e.Text, "Exit Code: 0")
}
