package dispatch

import (
	"math"
	"slices"
)

// priority is one degree of urgency: who waits in it, by placement.
type priority struct {
	// lanes holds, for each placement, the tenants that wait and may be served,
	// least charged first.
	lanes []*heap[*lane]
	// parked holds, likewise, the tenants that wait and may not be served now.
	parked   []*heap[*lane]
	accounts map[string]*account
	waiting  int
	// ready is, by placement, how many of those that wait are of tenants that may be
	// served, and again how many of them are in retries.
	ready, again []int
	// retries wait to be tried again elsewhere than where they failed. They stand
	// apart so that none keeps those behind it from the slot that it must avoid.
	retries []*Ticket
	// floor is, by placement, the charge of the tenant served last.
	floor []float64
	sweep int // accounts at which forgotten ones are swept next
}

// tenant is the state of one tenant over all priorities.
type tenant struct {
	name           string
	limits         Limits
	queued, active int
	accounts       []*account
	parked         bool
}

// account is a tenant at one priority.
type account struct {
	tenant   *tenant
	priority *priority
	queued   int
	lanes    []*lane // by placement, nil where it never waited
}

// lane is the requests of one tenant, one priority and one placement, earliest
// deadline first.
type lane struct {
	account *account
	// charge is what the tenant was served on hardware that the placement allows, so
	// that what it took elsewhere costs it no turn here.
	charge float64
	tree   tree
	again  int          // its requests in priority.retries
	head   *Ticket      // the first of tree
	at     int          // placement
	in     *heap[*lane] // of priority.lanes or priority.parked, nil when empty
	index  int          // in that heap, -1 when empty
}

func before(a, b *lane) bool {
	if a.charge != b.charge {
		return a.charge < b.charge
	}
	return earlier(a.head, b.head)
}

func newPriority() *priority { return &priority{accounts: map[string]*account{}, sweep: 1024} }

// widen makes room for requests of one more placement.
func (c *priority) widen() {
	lanes := func() *heap[*lane] {
		return &heap[*lane]{less: before, place: func(l *lane, at int) { l.index = at }}
	}
	c.lanes, c.parked = append(c.lanes, lanes()), append(c.parked, lanes())
	c.ready, c.again, c.floor = append(c.ready, 0), append(c.again, 0), append(c.floor, 0)
	for _, a := range c.accounts {
		a.lanes = append(a.lanes, nil)
	}
}

// maxTenants bounds the tenants with an account of their own; further ones share one, so
// that clients which invent names cannot fill the memory. Tenants that the operator named
// always have their own.
const maxTenants = 1 << 16

func (q *Queue) tenant(name string) *tenant {
	if t, ok := q.tenants[name]; ok {
		return t
	}
	if _, named := q.policy.Tenants[name]; !named && len(q.tenants) >= maxTenants {
		name = "\x00others"
		if t, ok := q.tenants[name]; ok {
			return t
		}
	}
	t := &tenant{name: name, limits: q.limitsOf(name), accounts: make([]*account, len(q.priorities))}
	q.tenants[name] = t
	return t
}

// limitsOf returns a tenant's limits with the default weight filled in.
func (q *Queue) limitsOf(name string) Limits {
	limits, named := q.policy.Tenants[name]
	if !named {
		limits = q.policy.Tenants[""]
	}
	if limits.Weight <= 0 {
		limits.Weight = 1
	}
	return limits
}

func (q *Queue) account(t *tenant, urgency int) *account {
	if a := t.accounts[urgency]; a != nil {
		return a
	}
	c := q.priorities[urgency]
	if len(c.accounts) >= c.sweep {
		q.forget(c)
	}
	a := &account{tenant: t, priority: c, lanes: make([]*lane, len(c.lanes))}
	t.accounts[urgency] = a
	c.accounts[t.name] = a
	return a
}

// forget drops idle accounts whose charge is not above the floor: they would
// come back exactly so.
func (q *Queue) forget(c *priority) {
	for name, a := range c.accounts {
		t := a.tenant
		if t.queued > 0 || t.active > 0 || a.ahead() {
			continue
		}
		delete(c.accounts, name)
		held := false
		for p, other := range t.accounts {
			if other == a {
				t.accounts[p] = nil
			} else if other != nil {
				held = true
			}
		}
		if !held {
			delete(q.tenants, t.name)
		}
	}
	c.sweep = max(1024, 2*len(c.accounts))
}

// ahead reports whether the account has had more than its share somewhere.
func (a *account) ahead() bool {
	for p, l := range a.lanes {
		if l != nil && l.charge > a.priority.floor[p] {
			return true
		}
	}
	return false
}

// lift raises the charge of a lane that was empty to the active minimum, so that
// idling earns no credit: to the least charge that waits for any of the same
// hardware, or where nobody waits to that of whoever was served last.
func (q *Queue) lift(l *lane) {
	c := l.account.priority
	low, last := math.Inf(1), 0.0
	for p := range c.lanes {
		if !q.placements[l.at].overlaps(&q.placements[p]) {
			continue
		}
		last = max(last, c.floor[p])
		if c.lanes[p].len() > 0 {
			low = min(low, c.lanes[p].items[0].charge)
		}
	}
	if math.IsInf(low, 1) {
		low = last
	}
	l.charge = max(l.charge, low)
}

// enter puts a ticket into its lane and the lane among those that may be served.
func (q *Queue) enter(t *Ticket) {
	if l := q.laneOf(t); l.tree.len() == 0 {
		q.lift(l)
	}
	q.join(t)
}

// join is enter for a ticket whose lane has its charge.
func (q *Queue) join(t *Ticket) {
	l := t.lane
	a := l.account
	owner := a.tenant
	t.waiting = true
	l.tally(-1)
	if t.avoid != nil {
		a.priority.retries = append(a.priority.retries, t)
		l.again++
	} else {
		l.tree.insert(t)
	}
	l.tally(+1)
	a.queued++
	owner.queued++
	a.priority.waiting++
	q.waiting++
	q.wanted[t.Placement]++
	l.sync()
	q.park(owner)
}

// laneOf finds the lane of a ticket.
func (q *Queue) laneOf(t *Ticket) *lane {
	t.lane = q.lane(t.Tenant, t.Priority, t.Placement)
	return t.lane
}

func (q *Queue) lane(tenant string, priority, placement int) *lane {
	a := q.account(q.tenant(tenant), priority)
	l := a.lanes[placement]
	if l == nil {
		l = &lane{account: a, at: placement, index: -1}
		a.lanes[placement] = l
	}
	return l
}

// leave takes a waiting ticket out of its lane.
func (q *Queue) leave(t *Ticket) {
	l := t.lane
	t.waiting = false
	a := l.account
	l.tally(-1)
	if t.avoid != nil {
		c := a.priority
		at := slices.Index(c.retries, t)
		c.retries = slices.Delete(c.retries, at, at+1)
		l.again--
		t.avoid = nil
	} else {
		l.tree.remove(t)
	}
	l.tally(+1)
	a.queued--
	a.tenant.queued--
	a.priority.waiting--
	q.waiting--
	q.wanted[t.Placement]--
	l.sync()
}

// tally adds the lane to the counts of its priority, or takes it out of them with a
// sign of -1.
func (l *lane) tally(sign int) {
	if l.account.tenant.parked {
		return
	}
	c := l.account.priority
	c.ready[l.at] += sign * (l.tree.len() + l.again)
	c.again[l.at] += sign * l.again
}

// sync puts the lane where its head, its account's charge and its tenant's limit
// rank it.
func (l *lane) sync() {
	var in *heap[*lane]
	if l.tree.len() > 0 {
		l.head = l.tree.first()
		in = l.account.priority.lanes[l.at]
		if l.account.tenant.parked {
			in = l.account.priority.parked[l.at]
		}
	}
	switch {
	case l.in == in && in != nil:
		in.fix(l.index)
	case l.in != in:
		if l.in != nil {
			l.in.remove(l.index)
		}
		if in != nil {
			in.push(l)
		}
		l.in = in
	}
}

// charge adds cost, in units of a mean request, to an account that was served on a
// class of hardware.
func (q *Queue) charge(a *account, cost float64, class string) {
	for p, l := range a.lanes {
		if l == nil || !q.placements[p].allows(class) {
			continue
		}
		l.charge += cost / a.tenant.limits.Weight
		if l.index >= 0 {
			l.sync()
		}
	}
}

// park hides a tenant that is served as many requests as it may be, and brings
// it back when it is not.
func (q *Queue) park(t *tenant) {
	full := t.limits.MaxActive > 0 && t.active >= t.limits.MaxActive
	if full == t.parked {
		return
	}
	t.each(func(l *lane) { l.tally(-1) })
	t.parked = full
	t.each(func(l *lane) {
		l.tally(+1)
		l.sync()
	})
}

func (t *tenant) each(f func(*lane)) {
	for _, a := range t.accounts {
		if a == nil {
			continue
		}
		for _, l := range a.lanes {
			if l != nil {
				f(l)
			}
		}
	}
}
