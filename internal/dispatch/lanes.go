package dispatch

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
	// retries wait for another replica than the one where they failed. They are kept
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

// ahead reports whether the account has had more than its share somewhere.
func (a *account) ahead() bool {
	for p, l := range a.lanes {
		if l != nil && l.charge > a.priority.floor[p] {
			return true
		}
	}
	return false
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
