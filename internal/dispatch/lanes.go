package dispatch

// priority holds the waiting requests of one priority, by placement.
type priority struct {
	// lanes holds, for each placement, the lanes of tenants that may be served, least charged
	// first.
	lanes []*heap[*lane]
	// parked holds, for each placement, the lanes of tenants that may not be served now.
	parked   []*heap[*lane]
	accounts map[string]*account
	waiting  int
	// ready is, by placement, the number of waiting requests of tenants that may be served, and
	// again the number of those that are in retries.
	ready, again []int
	// retries wait for another replica than the one on which they failed. They are separate, so
	// that they do not block requests that may use the slot which they must avoid.
	retries []*Ticket
	// floor is, by placement, the charge of the tenant that was served last.
	floor []float64
	sweep int // number of accounts at which idle ones are removed next
}

// tenant is a tenant's state over all priorities.
type tenant struct {
	name           string
	limits         Limits
	queued, active int
	accounts       []*account
	parked         bool
}

// account is a tenant's state at one priority.
type account struct {
	tenant   *tenant
	priority *priority
	queued   int
	lanes    []*lane // by placement, nil if it never waited there
}

// lane holds the requests of one tenant with one priority and one placement, earliest deadline
// first.
type lane struct {
	account *account
	// charge is what the tenant was served on hardware that the placement allows. What it was
	// served on other hardware does not cost it a turn here.
	charge float64
	tree   tree
	again  int          // number of its requests in priority.retries
	head   *Ticket      // the first of tree
	at     int          // index of its placement
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

// addPlacement adds one more placement.
func (c *priority) addPlacement() {
	lanes := func() *heap[*lane] {
		return &heap[*lane]{less: before, place: func(l *lane, at int) { l.index = at }}
	}
	c.lanes, c.parked = append(c.lanes, lanes()), append(c.parked, lanes())
	c.ready, c.again, c.floor = append(c.ready, 0), append(c.again, 0), append(c.floor, 0)
	for _, a := range c.accounts {
		a.lanes = append(a.lanes, nil)
	}
}

// ahead reports whether the account was served more than its share in any placement.
func (a *account) ahead() bool {
	for p, l := range a.lanes {
		if l != nil && l.charge > a.priority.floor[p] {
			return true
		}
	}
	return false
}

// count adds the lane to the counts of its priority, or subtracts it with a sign of -1.
func (l *lane) count(sign int) {
	if l.account.tenant.parked {
		return
	}
	c := l.account.priority
	c.ready[l.at] += sign * (l.tree.len() + l.again)
	c.again[l.at] += sign * l.again
}

// sync moves the lane to where its head, its account's charge and its tenant's limit rank it.
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
