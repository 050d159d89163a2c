package dispatch

// kind describes replicas that are expected to be equally fast, and their speed.
type kind struct {
	class   string
	slices  int
	total   int
	slots   int     // of the replica that was added or updated last
	weight  float64 // expected speed, relative to other kinds
	seed    float64 // speed known from before, in mean requests per second; 0 if none
	learned estimate
	// In Tokens mode: the assumed speed, what was learned relative to it, and the speed that
	// decisions use.
	assumed, speed             speed
	prior                      prior
	prefill, step              fit
	kv                         int     // of the replica that was added or updated last
	concurrency, rate          float64 // see sustained
	slowdownSum, slowdownCount float64 // sum and number of its replicas' slowdowns
	unexplored                 bool    // see markUnexplored
}

// tier holds the replicas that are ranked as equally fast: those of one kind whose measured speed
// differs from the kind's by the same level.
type tier struct {
	kind  *kind
	level int // speed is 2^-level of the kind's
	// rate is the speed of one slot in units of cost per second.
	rate  float64
	slots int // usable slots, free or not
	free  heap[*server]
}

// server is the state of one replica.
type server struct {
	Replica
	tier       *tier
	index      int // in tier.free, -1 when it has no free usable slot
	active     int
	early      []*Ticket // those of active that were sent ahead, in order
	counted    int       // its contribution to tier.slots
	used       uint64
	leaving    bool
	own        estimate
	seen       int // samples, including those of the warm-up
	health     health
	suspension int // in fleet.suspended, -1 when not suspended
	books      books
	prefixes   int32 // in fleet.index
	slowdown   slowdown
}

// usable returns how many slots may be used now.
func (s *server) usable() int {
	switch {
	case s.leaving || s.suspension >= 0 || s.Sleep != Awake:
		return 0
	case s.health.onProbation:
		return min(1, max(0, s.Slots-s.Withheld))
	}
	return max(0, s.Slots-s.Withheld)
}

// lessLoaded orders replicas of one tier: the least filled first, because batching replicas are faster
// when the batch is smaller; then the one that was unused the longest.
func lessLoaded(a, b *server) bool {
	if x, y := a.active*b.Slots, b.active*a.Slots; x != y {
		return x < y
	}
	return a.used < b.used
}

// Put adds a replica or updates the one with the same ID. A replica that returns before it has
// finished its earlier requests keeps their slots occupied.
func (q *Queue) Put(r Replica) {
	r.Slots = max(r.Slots, 1)
	if r.Weight <= 0 {
		r.Weight = 1
	}
	k := q.fleet.kindOf(&r)
	k.weight, k.slots, k.kv = r.Weight, r.Slots, r.KV
	seed := q.learned.seeds[r.Class]
	k.seed = seed.Rate
	if k.assumed == (speed{}) {
		k.assumed = assume(r.Class, r.Weight*float64(r.Slots))
		k.prefill, k.step = newFit(2, prefillMemory), newFit(3, stepMemory)
		k.setPrior(seed.Curves)
	}
	q.fleet.put(r, k)
	q.learned.weighAll()
}

// Drop removes a replica: it gets no further requests and finishes those that it has.
func (q *Queue) Drop(id string) {
	q.fleet.drop(id)
	q.learned.weighAll()
}
