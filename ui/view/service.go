package view

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/weigh"
)

// Brief is one service in the list of services.
type Brief struct {
	Name     string `json:"name"`
	Queued   int    `json:"queued"`
	Active   int    `json:"active"`
	Ready    int    `json:"ready"`
	Starting int    `json:"starting"`
	Slots    int    `json:"slots"`
	// Output is the rate of generated tokens per second in the last minute, -1 if unknown.
	Output float64 `json:"output"`
}

// Services is the list of all services.
type Services struct {
	Sources  []Source `json:"sources"`
	Services []Brief  `json:"services"`
}

// OneService is the view of one service.
type OneService struct {
	Sources  []Source     `json:"sources"`
	Found    bool         `json:"found"`
	Brief    Brief        `json:"brief"`
	Classes  []ClassRow   `json:"classes"`
	Replicas []ReplicaRow `json:"replicas"`
	Changes  []ChangeRow  `json:"changes"`
	Waits    []api.Wait   `json:"waits"`
	Tokens   *api.Tokens  `json:"last_minute,omitempty"`
	Gateways []string     `json:"gateways"`
	Jobs     []string     `json:"jobs"`
}

// ClassRow is the part of a service on one hardware class.
type ClassRow struct {
	Name     string  `json:"name"`
	Ready    int     `json:"ready"`
	Starting int     `json:"starting"`
	Asleep   int     `json:"asleep"`
	Slots    int     `json:"slots"`
	Active   int     `json:"active"`
	Rate     float64 `json:"rate"` // of one busy slot, in requests or units of work per second; 0 while unknown
	// Routed is the class's share in the mesh's splitter in percent, nil without a splitter.
	Routed *float64 `json:"routed,omitempty"`
	// Served is the class's share of the requests of the last minute in percent, nil if there were
	// none.
	Served *float64 `json:"served,omitempty"`
}

// ReplicaRow is one replica.
type ReplicaRow struct {
	ID     string  `json:"id"`
	Alloc  string  `json:"alloc,omitempty"`
	Node   string  `json:"node,omitempty"`
	Class  string  `json:"class"`
	Slices int     `json:"slices"`
	Slots  int     `json:"slots"`
	Active int     `json:"active"`
	Rate   float64 `json:"rate"`
	KV     int     `json:"kv_tokens,omitempty"`
	Held   int     `json:"inflight_tokens,omitempty"`
	// State is ready, starting, ejected, probation, leaving, or a value of api.Replica.Sleep.
	State string     `json:"state"`
	Since *time.Time `json:"since,omitempty"`
	// Text is the last task event of a starting replica.
	Text string `json:"text,omitempty"`
}

// ChangeRow is a scaling action.
type ChangeRow struct {
	At     time.Time `json:"at"`
	Job    string    `json:"job"`
	Group  string    `json:"group"`
	From   int       `json:"from"`
	To     int       `json:"to"`
	Reason string    `json:"reason"`
	Failed bool      `json:"failed,omitempty"`
}

// ServicesOf returns the list of all services.
func ServicesOf(f Facts) Services {
	out := Services{Sources: f.Sources, Services: []Brief{}}
	stands := Stands(f)
	for _, s := range f.Services {
		out.Services = append(out.Services, brief(s, stands[s.Name]))
	}
	return out
}

// ServiceOf returns the view of one service. Found is false if no gateway has it.
func ServiceOf(f Facts, name string) OneService {
	out := OneService{Sources: f.Sources, Classes: []ClassRow{}, Replicas: []ReplicaRow{}, Changes: []ChangeRow{},
		Gateways: []string{}, Jobs: []string{}, Waits: []api.Wait{}}
	i := slices.IndexFunc(f.Services, func(s Service) bool { return s.Name == name })
	if i < 0 {
		return out
	}
	s := f.Services[i]
	out.Found, out.Tokens, out.Gateways = true, s.Tokens, s.Gateways
	out.Waits = append(out.Waits, s.Waits...)
	fleet := fleetOf(f)
	groups, starting := fleet.of(s)
	stands := standsOf(s, starting)
	out.Brief = brief(s, stands)
	out.Classes = classRows(s, stands, f.Splits[name], f.Served[name])
	out.Replicas = replicaRows(fleet, s, starting)
	for g := range groups {
		if !slices.Contains(out.Jobs, g.job) {
			out.Jobs = append(out.Jobs, g.job)
		}
	}
	slices.Sort(out.Jobs)
	for _, c := range f.Changes {
		if groups[group{c.Namespace, c.Job, c.Group}] {
			out.Changes = append(out.Changes, ChangeRow{c.At, c.Job, c.Group, c.From, c.To, c.Reason, c.Failed})
		}
	}
	return out
}

func brief(s Service, stands map[string]Stand) Brief {
	b := Brief{Name: s.Name, Queued: s.Queued, Output: -1}
	for _, n := range s.Active {
		b.Active += n
	}
	for _, st := range stands {
		b.Ready, b.Starting = b.Ready+st.Ready, b.Starting+st.Starting
	}
	for _, r := range s.Replicas {
		b.Slots += r.Usable
	}
	if s.Tokens != nil {
		b.Output = float64(s.Tokens.Output) / 60
	}
	return b
}

func state(r api.Replica) string {
	switch {
	case r.Leaving:
		return "leaving"
	case r.Ejected:
		return "ejected"
	case r.Sleep != "":
		return r.Sleep
	case r.Probation:
		return "probation"
	}
	return "ready"
}

func classRows(s Service, stands map[string]Stand, split map[string]float64, served map[string]int) []ClassRow {
	rows := map[string]*ClassRow{}
	row := func(class string) *ClassRow {
		if rows[class] == nil {
			rows[class] = &ClassRow{Name: class}
		}
		return rows[class]
	}
	for class, st := range stands {
		row(class).Ready, row(class).Starting = st.Ready, st.Starting
	}
	rated := map[string]int{}
	for _, r := range s.Replicas {
		c := row(r.Class)
		c.Slots += r.Usable
		c.Rate += r.Rate
		rated[r.Class]++
		if r.Sleep == "asleep" {
			c.Asleep++
		}
	}
	for class, n := range s.Active {
		row(class).Active += n
	}
	for class, share := range routed(split) {
		row(class).Routed = &share
	}
	for class, share := range shares(served) {
		row(class).Served = &share
	}
	out := []ClassRow{}
	for _, class := range slices.Sorted(maps.Keys(rows)) {
		if n := rated[class]; n > 0 {
			rows[class].Rate /= float64(n)
		}
		out = append(out, *rows[class])
	}
	return out
}

// shares converts counts to percent of their sum.
func shares(of map[string]int) map[string]float64 {
	sum := 0
	for _, n := range of {
		sum += n
	}
	out := map[string]float64{}
	for class, n := range of {
		out[class] = 100 * float64(n) / float64(sum)
	}
	return out
}

// routed returns the sum of the shares of each class's subsets.
func routed(split map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for subset, percent := range split {
		class := subset
		if group, err := weigh.ParseGroup(subset); err == nil {
			class = group.Class
		}
		out[class] += percent
	}
	return out
}

func replicaRows(l *fleet, s Service, starting []*Alloc) []ReplicaRow {
	out := []ReplicaRow{}
	for _, r := range s.Replicas {
		a := l.allocs[allocOf(r.ID)]
		if a == nil {
			a = &Alloc{}
		}
		out = append(out, ReplicaRow{
			ID: r.ID, Alloc: a.ID, Node: a.Node, Class: r.Class, Slices: r.Slices, Slots: r.Slots, Active: r.Active,
			Rate: r.Rate, KV: r.KV, Held: r.InFlight, State: state(r),
		})
	}
	for _, a := range starting {
		out = append(out, ReplicaRow{ID: a.ID, Alloc: a.ID, Node: a.Node, Class: a.Class, Slices: a.Slices,
			State: "starting", Since: &a.Created, Text: lastText(a)})
	}
	slices.SortFunc(out, func(a, b ReplicaRow) int {
		return cmp.Or(strings.Compare(a.Class, b.Class), strings.Compare(a.Alloc, b.Alloc), strings.Compare(a.ID, b.ID))
	})
	return out
}

func lastText(a *Alloc) string {
	if n := len(a.Events); n > 0 {
		return a.Events[n-1].Text
	}
	return ""
}
