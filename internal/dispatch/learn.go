package dispatch

import "math"

// estimate is an exponentially weighted record of work and time.
type estimate struct {
	cost, seconds float64
	n             float64 // weight
	samples       float64 // number of samples, whatever their weight
}

const (
	// estimateMemory is the number of samples after which an old one counts 1/e.
	estimateMemory = 256
	// warmup is the number of first requests of a replica that are ignored: they pay for lazy
	// loading, compilation and cold caches.
	warmup = 3
	// classPriorWeight is how many samples the prior of a class weight counts as.
	classPriorWeight = 8
	// clip limits a sample to this multiple of the expected time, so that one request that hangs
	// does not make a class look slow.
	clip = 8
)

// add records that cost was served in seconds. weight is the used fraction of the replica's slots:
// a batching replica is faster when it is emptier, and the relevant speed is that at the configured
// concurrency.
func (e *estimate) add(cost, seconds, weight float64) {
	if e.samples >= 16 {
		seconds = min(seconds, clip*cost/e.rate())
	}
	keep := 1 - 1.0/estimateMemory
	e.samples = e.samples*keep + 1
	e.cost = e.cost*keep + cost*weight
	e.seconds = e.seconds*keep + seconds*weight
	e.n = e.n*keep + weight
}

func (e *estimate) rate() float64 { return e.cost / max(e.seconds, 1e-9) }

// ownSamples is the number of samples that a replica needs before it is ranked separately from its
// kind: with exponential service times the mean of 32 is off by a factor of two once in a million.
const ownSamples = 32

// learned is what the service's requests have shown about the speed of its replicas.
type learned struct {
	mode     Mode
	fleet    *fleet
	averages *averages
	seeds    map[string]Rate // by class
	mean     estimate        // of a request's cost
	known    bool            // anything is known
	total    float64         // speed of all usable slots
}

// learn records a finished request and updates the ranks of its replica and its kind.
func (l *learned) learn(s *server, t *Ticket, seconds float64) {
	if s.seen++; s.seen <= warmup || seconds <= 0 {
		return
	}
	cost, weight := t.cost, max(t.occupied, 1e-3)
	if t.Cost > 0 && s.own.samples >= 16 {
		// A request that declares a high cost must have taken long.
		cost = min(cost, clip*seconds*s.own.rate())
	}
	l.mean.add(cost, 1, 1)
	s.own.add(cost, seconds, weight)
	k := s.tier.kind
	if s.tier.level == 0 {
		k.learned.add(cost, seconds, weight)
	}
	if l.mode == Slots && s.own.samples >= ownSamples {
		base, _ := l.base()
		if level := levelOf(s.own.rate()/l.kindRate(k, base), s.tier.level); level != s.tier.level {
			l.fleet.move(s, l.fleet.tierOf(k, level))
		}
	}
	l.weighAll()
}

// levelOf returns by how many halvings a replica is slower than its kind. It keeps the current
// level until the speed is clearly closer to another.
func levelOf(ratio float64, now int) int {
	exact := -math.Log2(max(ratio, 1e-6))
	if math.Abs(exact-float64(now)) < 0.9 {
		return now
	}
	return int(max(-4, min(8, math.Round(exact))))
}

// base returns the speed that a weight of 1 stands for, learned from all kinds or known from
// before. It returns false while nothing is known.
func (l *learned) base() (float64, bool) {
	var sum, n float64
	for _, k := range l.fleet.kinds {
		rate, samples := k.seed*l.averageCost(), float64(classPriorWeight)
		if k.learned.samples >= 1 {
			rate, samples = k.learned.rate(), k.learned.samples
		}
		if rate > 0 {
			sum += samples * math.Log(rate/k.weight)
			n += samples
		}
	}
	if n == 0 {
		return 1, false
	}
	return math.Exp(sum / n), true
}

// kindRate returns the speed of one slot of a kind: learned or, while there are few samples, from
// earlier knowledge or the weight.
func (l *learned) kindRate(k *kind, base float64) float64 {
	prior := base * k.weight
	if k.seed > 0 {
		prior = k.seed * l.averageCost()
	}
	e := &k.learned
	priorCost := classPriorWeight * max(0, 1-e.samples/64) * l.averageCost()
	if e.samples > 0 {
		priorCost *= e.n / e.samples // what was measured weighs as much in e.cost
	}
	return (e.cost + priorCost) / max(e.seconds+priorCost/prior, 1e-9)
}

func (l *learned) averageCost() float64 {
	if l.mean.n == 0 {
		return 1
	}
	return l.mean.cost / l.mean.n
}

// weighAll computes the speed of every tier. There are few tiers: one for each kind, and a few more
// for replicas whose measured speed differs.
func (l *learned) weighAll() {
	base, known := l.base()
	l.known, l.total = known, 0
	for _, t := range l.fleet.tiers {
		t.rate = math.Ldexp(l.kindRate(t.kind, base), -t.level)
		l.total += float64(t.slots) * t.rate
	}
}

// maxImplied is the factor by which a kind's speed may differ from what the other kinds and the
// weights imply before it is no longer published. The weights are within 2 x of what was measured,
// for models that fit each kind as a whole.
const maxImplied = 32

// plausible limits a learned speed by what the other kinds' speeds and the kind's weight imply.
// Others act on the published speed, so it must not be nonsense.
func (l *learned) plausible(k *kind, rate float64) float64 {
	var sum, n float64
	for _, o := range l.fleet.kinds {
		if o != k && o.learned.samples >= 1 {
			sum += o.learned.samples * math.Log(o.learned.rate()/o.weight)
			n += o.learned.samples
		}
	}
	if n == 0 {
		return rate
	}
	expected := math.Exp(sum/n) * k.weight
	return min(max(rate, expected/maxImplied), expected*maxImplied)
}

// Rate is what was learned about one hardware class.
type Rate struct {
	// Rate is mean requests per second and busy slot.
	Rate float64
	// Slots is the mean number of slots of the current replicas, or that of one of the last
	// replicas.
	Slots float64
	// Samples is the number of requests behind the rate; older ones decay, to at most 256 per slice
	// count.
	Samples float64
	// Curves are the speeds of the class in Tokens mode, one for each kind of replica.
	Curves []Curve
}

// rates returns what was learned, by class.
func (l *learned) rates() map[string]Rate {
	out := map[string]Rate{}
	for _, k := range l.fleet.kinds {
		e := &k.learned
		if e.n <= 0 {
			continue
		}
		if l.mode == Tokens {
			l.rateOf(k, out)
			continue
		}
		r := out[k.class]
		mean := l.plausible(k, e.rate()) / l.averageCost()
		r.Rate = (r.Rate*r.Samples + mean*e.samples) / (r.Samples + e.samples)
		r.Samples += e.samples
		r.Slots = float64(k.slots)
		out[k.class] = r
	}
	if l.mode == Tokens {
		return out
	}
	for class, r := range out {
		var slots, replicas float64
		for _, s := range l.fleet.servers {
			if s.Class == class && !s.leaving {
				slots += float64(s.Slots)
				replicas++
			}
		}
		if replicas > 0 {
			r.Slots = slots / replicas
		}
		out[class] = r
	}
	return out
}

// rateOf adds a kind's sustained rate to that of its class. Slots is how many requests a replica
// serves at once, and Rate x Slots how many per second.
func (l *learned) rateOf(k *kind, out map[string]Rate) {
	if k.concurrency == 0 {
		return
	}
	r, n := out[k.class], k.learned.samples
	r.Rate = (r.Rate*r.Samples + k.rate/k.concurrency*n) / (r.Samples + n)
	r.Slots = (r.Slots*r.Samples + k.concurrency*n) / (r.Samples + n)
	r.Samples += n
	r.Curves = append(r.Curves, l.averages.curveOf(k))
	out[k.class] = r
}

// seed sets rates that were learned before.
func (l *learned) seed(rates map[string]Rate) {
	l.seeds = map[string]Rate{}
	for class, r := range rates {
		if r.Rate > 0 {
			l.seeds[class] = r
		}
	}
	for _, k := range l.fleet.kinds {
		k.seed = l.seeds[k.class].Rate
		k.setPrior(l.seeds[k.class].Curves)
	}
	l.fleet.stale = true
	l.weighAll()
}

// Rates returns what was learned, by class.
func (q *Queue) Rates() map[string]Rate { return q.learned.rates() }

// Seed sets rates that were learned before. They are a prior for every replica of their class, and
// measurements outweigh them.
func (q *Queue) Seed(rates map[string]Rate) { q.learned.seed(rates) }
