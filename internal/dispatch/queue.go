package dispatch

import (
	"slices"
	"time"
)

// Queue is the state of one service: who waits, and what serves. It is not safe
// for concurrent use.
type Queue struct {
	policy     Policy
	placements []placement
	configured int // how many of them are the policy's
	priorities []*priority
	tenants    map[string]*tenant
	waiting    int
	wanted     []int // waiting requests by placement
	seq        uint64

	servers   map[string]*server
	suspended heap[*server]
	tiers     []*tier
	present   map[string]int // replicas by class
	slots     int            // usable slots, free or not

	kinds    []*kind
	seeds    map[string]Rate // by class
	meanCost estimate
	units    units
	evicted  []*Ticket
	learned  bool
	speed    float64 // of all usable slots
	load     load
	held     time.Time // when Next must look at a held request again

	output  float64 // mean tokens of an answer, in Tokens mode
	prompt  float64 // mean tokens of a prompt, in Tokens mode
	answers float64 // how many they are the means of
	lengths lengths
	fleet   []*server
	index   index
	looked  []*Ticket // reused by candidates

	refreshed time.Time // when the speeds of the kinds were computed last
	unknown   bool      // a kind is new since
	round     uint64    // of walks
	views     []view    // in the walk, of the replicas that are up
	opened    int       // replicas that the walk may still send to
}

// New returns an empty queue.
func New(p Policy) *Queue {
	p.Eject = p.Eject.defaulted()
	q := &Queue{
		policy: p, output: firstOutput, index: newIndex(),
		tenants: map[string]*tenant{}, servers: map[string]*server{}, present: map[string]int{},
	}
	for range max(1, p.Priorities) {
		q.priorities = append(q.priorities, newPriority())
	}
	for _, one := range p.Placements {
		q.addPlacement(one)
	}
	if len(q.placements) == 0 {
		q.addPlacement(Placement{})
	}
	q.configured = len(q.placements)
	q.suspended = heap[*server]{
		less:  func(a, b *server) bool { return a.health.until.Before(b.health.until) },
		place: func(s *server, at int) { s.wake = at },
	}
	return q
}

// Submit queues a request, or says why not and after how long it is worth trying
// again. A ticket is submitted once.
func (q *Queue) Submit(t *Ticket, now time.Time) (Refusal, time.Duration) {
	q.prepare(t, now)
	if why, after := q.refuse(t, now); why != Accepted {
		return why, after
	}
	if q.policy.MaxQueue > 0 && q.waiting >= q.policy.MaxQueue {
		lesser := q.lesser(t)
		q.leave(lesser)
		q.evicted = append(q.evicted, lesser)
	}
	q.enter(t)
	return Accepted, 0
}

// prepare sets what the queue keeps of a ticket that arrived at a time.
func (q *Queue) prepare(t *Ticket, arrived time.Time) {
	t.Priority = min(max(t.Priority, 0), len(q.priorities)-1)
	if t.Placement < 0 || t.Placement >= len(q.placements) {
		t.Placement = 0
	}
	t.due = t.order()
	t.cost = q.units.of(t.Cost)
	if q.policy.Mode == Tokens {
		// A long prompt lets short ones pass, by 3 seconds for each 1,000 tokens.
		t.due = t.due.Add(3 * time.Duration(t.Prompt) * time.Millisecond)
		t.cost = q.tokensOf(t, q.needOf(t).output)
	}
	q.seq++
	t.seq, t.at = q.seq, arrived
}

// Withdraw takes a waiting ticket out; false when it is not waiting.
func (q *Queue) Withdraw(t *Ticket) bool {
	if !t.waiting {
		return false
	}
	q.leave(t)
	return true
}

// Next ties the next request to a replica and returns its ticket, or nil when no
// waiting request can be placed. The owner calls it until it returns nil after
// every change, and at the time that Wake tells.
func (q *Queue) Next(now time.Time) *Ticket {
	q.revive(now)
	q.held = time.Time{}
	if q.policy.Mode == Tokens && q.waiting > 0 {
		q.survey(now)
	}
	for _, c := range q.priorities {
		if c.waiting == 0 {
			continue
		}
		for _, t := range q.candidates(c) {
			got := q.pick(t, now)
			if got.on != nil {
				t = c.indifferent(t, got.rank)
				q.start(t, got, now)
				return t
			}
			if !got.until.IsZero() && (q.held.IsZero() || got.until.Before(q.held)) {
				q.held = got.until
			}
		}
	}
	return nil
}

// candidates returns the requests of one priority among which one may be served
// next, in order: those to be tried again, and then in Slots mode the first of
// each placement, because those behind it can be placed no better.
func (q *Queue) candidates(c *priority) []*Ticket {
	out := q.looked[:0]
	for _, t := range c.retries {
		// Those that failed at the same replica under the same rule can be placed
		// alike: the first stands for all of them.
		alike := func(o *Ticket) bool { return o.avoid == t.avoid && o.Placement == t.Placement }
		if !t.lane.account.tenant.parked && !slices.ContainsFunc(out, alike) {
			out = append(out, t)
		}
	}
	if q.policy.Mode == Tokens {
		q.looked = c.within(out, window)
		return q.looked
	}
	retries := len(out)
	for i := range c.lanes {
		if c.lanes[i].len() > 0 {
			out = append(out, c.lanes[i].items[0].head)
		}
	}
	slices.SortFunc(out[retries:], func(a, b *Ticket) int {
		if before(a.lane, b.lane) {
			return -1
		}
		return 1
	})
	q.looked = out
	return out
}

// indifferent returns the request that takes the slot that was found for t, which
// is the one of a rank in the queue. Tenants take turns, so a rank in the queue is
// that rank divided among them.
func (c *priority) indifferent(t *Ticket, rank int) *Ticket {
	if rank == 0 {
		return t
	}
	lanes := 0
	for i := range c.lanes {
		lanes += c.lanes[i].len()
	}
	tree := &t.lane.tree
	return tree.at(min(rank/lanes, tree.len()-1))
}

func (q *Queue) start(t *Ticket, at choice, now time.Time) {
	q.leave(t)
	floor := &t.lane.account.priority.floor[t.Placement]
	*floor = max(*floor, t.lane.charge)
	q.occupy(t, at, now)
	t.charged = t.cost / q.averageCost()
	q.charge(t.lane.account, t.charged, at.on.Class)
}

// occupy gives a ticket that does not wait a slot of a replica.
func (q *Queue) occupy(t *Ticket, at choice, now time.Time) {
	s := at.on
	t.on, t.started = s, now
	if q.policy.Mode == Tokens {
		s.send(t, at.work, at.hit, now)
		q.index.add(s.shelf, t.Blocks, s.room())
	}
	s.active++
	q.seq++
	s.used = q.seq
	t.occupied = float64(s.active) / float64(s.Slots)
	t.speed = s.tier.rate
	q.load.change(t.speed, q.speed, now)
	t.lane.account.tenant.active++
	q.file(s)
	q.park(t.lane.account.tenant)
}

// Finish frees the ticket's slot. pause is how long a Busy replica asked to be
// left alone.
func (q *Queue) Finish(t *Ticket, o Verdict, pause time.Duration, now time.Time) {
	s := t.on
	if s == nil {
		return
	}
	if q.policy.Mode == Tokens {
		q.ended(s, t, o, now)
	}
	t.on = nil
	s.active--
	q.load.change(-t.speed, q.speed, now)
	account := t.lane.account
	tenant := account.tenant
	tenant.active--
	took := now.Sub(t.started).Seconds()
	if q.policy.Mode == Tokens {
		q.charge(account, q.tokensOf(t, float64(t.entry.tokens))-t.charged, s.Class)
	} else if q.learned {
		// Charged by what was declared at the start; now the work is known.
		q.charge(account, took*s.tier.rate/q.averageCost()-t.charged, s.Class)
	}
	q.judge(s, t, o, pause, now)
	q.file(s)
	if o == Served {
		q.learn(s, t, took)
	}
	q.gone(s)
	q.park(tenant)
}

// Retry frees the ticket's slot and queues the request again, ahead of
// others, to be tried on another replica if there is one.
func (q *Queue) Retry(t *Ticket, o Verdict, pause time.Duration, now time.Time) {
	if t.on == nil {
		return
	}
	s := t.on
	q.Finish(t, o, pause, now)
	t.avoid = s
	q.enter(t)
}

// Wake is when the owner must call Next again although nothing happened; zero when
// that is never.
func (q *Queue) Wake() time.Time {
	wake := q.held
	if q.suspended.len() > 0 {
		if until := q.suspended.items[0].health.until; wake.IsZero() || until.Before(wake) {
			wake = until
		}
	}
	return wake
}

// Waiting is how many requests wait.
func (q *Queue) Waiting() int { return q.waiting }

// Starving tells whether a request waits that no known replica could serve,
// whether healthy or not.
func (q *Queue) Starving() bool {
	for i := range q.placements {
		if q.starves(i) {
			return true
		}
	}
	return false
}

// StarvesFor tells whether a replica of the class would serve such a request.
func (q *Queue) StarvesFor(class string) bool {
	for i := range q.placements {
		if q.starves(i) && q.placements[i].allows(class) {
			return true
		}
	}
	return false
}

func (q *Queue) starves(placement int) bool {
	if q.wanted[placement] == 0 {
		return false
	}
	for class := range q.present {
		if q.placements[placement].allows(class) {
			return false
		}
	}
	return true
}
