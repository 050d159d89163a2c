package dispatch

import (
	"math"
	"slices"
)

// waitlist holds the waiting tickets by priority, tenant and placement, and the order in which they
// are due. It knows no replicas.
type waitlist struct {
	placements []*placement
	configured int // number of placements from the policy
	priorities []*priority
	tenants    map[string]*tenant
	limits     map[string]Limits // see Policy.Tenants
	waiting    int
	wanted     []int     // waiting requests by placement
	scratch    []*Ticket // reused by candidates
}

func newWaitlist(p Policy) waitlist {
	w := waitlist{limits: p.Tenants, tenants: map[string]*tenant{}}
	for range max(1, p.Priorities) {
		w.priorities = append(w.priorities, newPriority())
	}
	for _, one := range p.Placements {
		w.addPlacement(one)
	}
	if len(w.placements) == 0 {
		w.addPlacement(Placement{})
	}
	w.configured = len(w.placements)
	return w
}

// limit replaces the tenants' limits.
func (w *waitlist) limit(limits map[string]Limits) {
	w.limits = limits
	for name, t := range w.tenants {
		t.limits = w.limitsOf(name)
		w.park(t)
	}
}

// maxTenants limits the tenants that have their own account. Further tenants share one, so that
// clients that invent names cannot fill the memory. Tenants in the configuration always have their
// own.
const maxTenants = 1 << 16

func (w *waitlist) tenant(name string) *tenant {
	if t, ok := w.tenants[name]; ok {
		return t
	}
	if _, named := w.limits[name]; !named && len(w.tenants) >= maxTenants {
		name = "\x00others"
		if t, ok := w.tenants[name]; ok {
			return t
		}
	}
	t := &tenant{name: name, limits: w.limitsOf(name), accounts: make([]*account, len(w.priorities))}
	w.tenants[name] = t
	return t
}

// limitsOf returns a tenant's limits with the default weight filled in.
func (w *waitlist) limitsOf(name string) Limits {
	limits, named := w.limits[name]
	if !named {
		limits = w.limits[""]
	}
	if limits.Weight <= 0 {
		limits.Weight = 1
	}
	return limits
}

func (w *waitlist) account(t *tenant, urgency int) *account {
	if a := t.accounts[urgency]; a != nil {
		return a
	}
	c := w.priorities[urgency]
	if len(c.accounts) >= c.sweep {
		w.forget(c)
	}
	a := &account{tenant: t, priority: c, lanes: make([]*lane, len(c.lanes))}
	t.accounts[urgency] = a
	c.accounts[t.name] = a
	return a
}

// forget removes idle accounts whose charge is not above the floor, because new accounts would
// start with the same charge.
func (w *waitlist) forget(c *priority) {
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
			delete(w.tenants, t.name)
		}
	}
	c.sweep = max(1024, 2*len(c.accounts))
}

// raiseCharge raises the charge of a lane that was empty, so that idling earns no credit: to the least
// charge that waits for any of the same hardware or, if nobody waits, to that of the tenant served
// last.
func (w *waitlist) raiseCharge(l *lane) {
	c := l.account.priority
	low, last := math.Inf(1), 0.0
	for p := range c.lanes {
		if !w.placements[l.at].overlaps(w.placements[p]) {
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

// enter adds a ticket to its lane, and the lane to those that may be served.
func (w *waitlist) enter(t *Ticket) {
	if l := w.laneOf(t); l.tree.len() == 0 {
		w.raiseCharge(l)
	}
	w.join(t)
}

// join is enter for a ticket whose lane already has its charge.
func (w *waitlist) join(t *Ticket) {
	l := t.lane
	a := l.account
	owner := a.tenant
	t.waiting = true
	l.count(-1)
	if t.avoid != nil {
		a.priority.retries = append(a.priority.retries, t)
		l.again++
	} else {
		l.tree.insert(t)
	}
	l.count(+1)
	a.queued++
	owner.queued++
	a.priority.waiting++
	w.waiting++
	w.wanted[t.Placement]++
	l.sync()
	w.park(owner)
}

// laneOf finds or creates the lane of a ticket.
func (w *waitlist) laneOf(t *Ticket) *lane {
	t.lane = w.lane(t.Tenant, t.Priority, t.Placement)
	return t.lane
}

func (w *waitlist) lane(tenant string, priority, placement int) *lane {
	a := w.account(w.tenant(tenant), priority)
	l := a.lanes[placement]
	if l == nil {
		l = &lane{account: a, at: placement, index: -1}
		a.lanes[placement] = l
	}
	return l
}

// leave removes a waiting ticket from its lane.
func (w *waitlist) leave(t *Ticket) {
	l := t.lane
	t.waiting = false
	a := l.account
	l.count(-1)
	if t.avoid != nil {
		c := a.priority
		at := slices.Index(c.retries, t)
		c.retries = slices.Delete(c.retries, at, at+1)
		l.again--
		t.avoid = nil
	} else {
		l.tree.remove(t)
	}
	l.count(+1)
	a.queued--
	a.tenant.queued--
	a.priority.waiting--
	w.waiting--
	w.wanted[t.Placement]--
	l.sync()
}

// charge adds cost, in mean requests, to an account that was served on a hardware class.
func (w *waitlist) charge(a *account, cost float64, class string) {
	for p, l := range a.lanes {
		if l == nil || !w.placements[p].allows(class) {
			continue
		}
		l.charge += cost / a.tenant.limits.Weight
		if l.index >= 0 {
			l.sync()
		}
	}
}

// park hides a tenant that has reached its limit of requests in service, and shows it again when it
// is below the limit.
func (w *waitlist) park(t *tenant) {
	full := t.limits.MaxActive > 0 && t.active >= t.limits.MaxActive
	if full == t.parked {
		return
	}
	t.each(func(l *lane) { l.count(-1) })
	t.parked = full
	t.each(func(l *lane) {
		l.count(+1)
		l.sync()
	})
}

func (w *waitlist) addPlacement(p Placement) {
	w.placements, w.wanted = append(w.placements, &placement{Placement: p}), append(w.wanted, 0)
	for _, c := range w.priorities {
		c.addPlacement()
	}
}
