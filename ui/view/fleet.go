package view

// group identifies a task group.
type group struct{ namespace, job, name string }

func (a *Alloc) group() group { return group{a.Namespace, a.Job, a.Group} }

// fleet indexes allocations by service: there may be thousands of both.
type fleet struct {
	allocs map[string]*Alloc // by ID
	groups map[group][]*Alloc
	scaled map[string][]group // by service
}

func fleetOf(f Facts) *fleet {
	out := &fleet{allocs: map[string]*Alloc{}, groups: map[group][]*Alloc{}, scaled: map[string][]group{}}
	for i := range f.Allocs {
		a := &f.Allocs[i]
		out.allocs[a.ID] = a
		out.groups[a.group()] = append(out.groups[a.group()], a)
	}
	for _, p := range f.Policies {
		out.scaled[p.Service] = append(out.scaled[p.Service], group{p.Namespace, p.Job, p.Group})
	}
	return out
}

// of returns the groups that serve a service or are scaled for it, and their allocations that do not
// serve it yet.
func (l *fleet) of(s Service) (groups map[group]bool, starting []*Alloc) {
	groups = map[group]bool{}
	for _, g := range l.scaled[s.Name] {
		groups[g] = true
	}
	serves := map[string]bool{}
	for _, r := range s.Replicas {
		id := allocOf(r.ID)
		serves[id] = true
		if a := l.allocs[id]; a != nil {
			groups[a.group()] = true
		}
	}
	for g := range groups {
		for _, a := range l.groups[g] {
			if a.Desired == "run" && (a.Client == "pending" || a.Client == "running") && !serves[a.ID] {
				starting = append(starting, a)
			}
		}
	}
	return groups, starting
}

// Stands counts the replicas of each service by class.
func Stands(f Facts) map[string]map[string]Stand {
	out, l := map[string]map[string]Stand{}, fleetOf(f)
	for _, s := range f.Services {
		_, starting := l.of(s)
		out[s.Name] = standsOf(s, starting)
	}
	return out
}

// standsOf counts the replicas of one service by class.
func standsOf(s Service, starting []*Alloc) map[string]Stand {
	out := map[string]Stand{}
	for _, r := range s.Replicas {
		st := out[r.Class]
		if state(r) == "ready" {
			st.Ready++
		}
		out[r.Class] = st
	}
	for _, a := range starting {
		st := out[a.Class]
		st.Starting++
		out[a.Class] = st
	}
	return out
}
