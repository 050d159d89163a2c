// Package dispatch decides which waiting request of a service is served next and
// by which replica, on replicas of unequal speed. It holds state and decides; it
// reads no clock and starts nothing. Its owner calls it under one lock, passes
// the time in, and acts on the answers.
//
// The policy is one central queue per service with late binding: a request is
// tied to a replica only when a slot of it is free. The fastest free slot is
// taken first, and a slow slot only when waiting for a fast one would cost more
// (Lin and Kumar, "Optimal control of a queueing system with two heterogeneous
// servers", 1984). Requests are ordered by priority, then between
// tenants by the cost that each was served (the virtual token counter of Sheng et
// al., "Fairness in serving large language models", OSDI 2024), then by deadline.
package dispatch

import "time"

// Mode is how a service's replicas serve several requests at once.
type Mode int

// The modes.
const (
	// Slots is for servers that work on each request apart from the others.
	Slots Mode = iota
	// Tokens is for engines that batch continuously, such as vLLM: a replica is
	// books of tokens, and a request goes where it costs the fewest seconds.
	Tokens
)

// SLO is what a service promises of a streamed answer; 0 means nothing.
type SLO struct {
	TTFT time.Duration // from the request's arrival to its first token
	TPOT time.Duration // between two tokens
}

// Policy is what the operator sets for one service. The zero value of a field
// means its default.
type Policy struct {
	Mode Mode
	// SLO is the objective; in Tokens mode a request that misses it counts as missed
	// seconds more.
	SLO SLO
	// Theta is how many times longer a request may take on a slow slot than it is
	// expected to take by waiting for a fast one; 0 means adaptive to load.
	Theta float64
	// Priorities is the number of priorities, 1 when zero.
	Priorities int
	// MaxQueue bounds waiting requests; 0 means no bound.
	MaxQueue int
	// Placements are the rules of hardware that requests refer to by index. Index
	// 0 is always "anywhere", whether listed or not.
	Placements []Placement
	// Tenants are limits by name; the entry "" holds for tenants not named.
	Tenants map[string]Limits
	// AwaitClass queues requests that require a class of which there is no replica;
	// set where such a class can be started.
	AwaitClass bool
	// Eject bounds how a failing replica is taken out of service.
	Eject Ejection
}

// Placement says which classes of hardware a request may use.
type Placement struct {
	// Require lists the only classes allowed; empty allows all.
	Require []string
	// Prefer lists classes whose free slots are taken before any other.
	Prefer []string
}

// Limits bound one tenant. Zero numbers mean no bound, a zero Weight means 1.
type Limits struct {
	Weight    float64 // share of service relative to other tenants
	MaxActive int     // requests being served at once
	MaxQueue  int     // requests waiting at once
}

// Request is what the policy needs to know of a request.
type Request struct {
	Tenant    string
	Priority  int // 0 is the most urgent; below Policy.Priorities
	Placement int // index into Policy.Placements
	// Cost is the work that the request declares, in any unit that all requests
	// of the service use alike; 0 when undeclared, which counts as 1. It counts for
	// at most 64 times, at least a 64th, of what requests of the service usually
	// declare, and what was served replaces it.
	Cost float64
	// Expire is the latest start: the request must not wait longer.
	Expire time.Time
	// Deadline is the latest useful end; zero when the client named none.
	Deadline time.Time

	// Prompt is how many tokens the request sends, as far as that is known.
	Prompt int
	// Output is how many tokens the answer is expected to have; 0 means the mean of
	// the service.
	Output int
	// Blocks are chained hashes of the prompt's full blocks of BlockTokens, in order:
	// equal hashes mean equal prompts up to the end of that block.
	Blocks []uint64
	// Whole says that the answer comes in one piece, so that its first token and its
	// progress are not seen. It is set for requests that do not ask for a stream.
	Whole bool
}

// BlockTokens is how many tokens of a prompt one hash of Request.Blocks covers.
const BlockTokens = 512

// order is the key of earliest-deadline-first.
func (r *Request) order() time.Time {
	if r.Deadline.IsZero() || r.Expire.Before(r.Deadline) {
		return r.Expire
	}
	return r.Deadline
}

// Replica is one instance of the service.
type Replica struct {
	ID    string
	Class string // hardware class, for example "h100"
	// Slices of the GPU that the replica runs on, of Total; where that is at most 1, Slices
	// are whole GPUs. Replicas of one class and as many slices are expected to be equally
	// fast.
	Slices, Total int
	// Slots is how many requests it serves at once, at least 1. In Tokens mode 1
	// means that the number is not known and limits nothing.
	Slots int
	// Withheld is how many of the slots are not for this queue: others may use them.
	Withheld int
	// Weight is its expected speed per slot relative to other replicas of the
	// service, used until speeds are learned; at least 0, 0 counts as 1. In Tokens
	// mode Weight x Slots is the replica's speed relative to an H100 where Class is
	// not in the hardware table, and says what part of the GPU it has where it is.
	Weight float64
	// KV is how many tokens the engine's cache holds; 0 when unknown.
	KV int
	// MaxPrompt is the longest prompt that it accepts, in tokens; 0 when unknown.
	MaxPrompt int
	// Sleep says whether it is awake; what sleeps has lost its cache.
	Sleep Sleep
}

// EngineState is what an engine's metrics say.
type EngineState struct {
	Running, Waiting int
	KVUsed           float64 // fraction of its cache, 0 to 1
}

// Refusal says why a request was not queued; Accepted when it was.
type Refusal int

// The reasons for a refusal.
const (
	Accepted    Refusal = iota
	QueueFull           // Policy.MaxQueue requests wait
	TenantFull          // the tenant's Limits.MaxQueue requests wait
	TooLate             // it would expire or miss its deadline before its turn and service
	NoSuchClass         // replicas exist, but none of a class that the placement requires
)

// Verdict says how an attempt on a replica ended, for this policy. The gateway itself
// records how a request ended for its client.
type Verdict int

// The verdicts on an attempt.
const (
	Served      Verdict = iota // the replica answered; its time is learned
	Neutral                    // ended for a reason that says nothing about the replica, such as a client that left
	Failed                     // the replica broke the exchange or answered as a broken gateway does
	Unreachable                // no connection could be made
	Busy                       // the replica refused it for now
)

// Ticket is one request in the queue or on a replica. Its owner allocates it,
// sets Request and Value and then leaves it to the Queue.
type Ticket struct {
	Request
	// Value is the owner's; the policy does not look at it.
	Value any

	seq      uint64
	at       time.Time // when it entered the queue
	started  time.Time
	occupied float64 // the replica's used fraction of slots at the start
	cost     float64 // in units of what is usually declared
	charged  float64 // at the start, in units of a mean request
	lane     *lane
	rule     *placement // its Placement
	speed    float64    // of its slot, when it started
	due      time.Time  // Request.order
	waiting  bool
	node     node
	on       *server
	entry    entry
	avoid    *server // where it failed, while it waits to be tried again
}

// Replica returns the replica that serves the ticket; false while it waits.
func (t *Ticket) Replica() (Replica, bool) {
	if t.on == nil {
		return Replica{}, false
	}
	return t.on.Replica, true
}

// Held is for how long the ticket has held its last slot at a time.
func (t *Ticket) Held(now time.Time) time.Duration { return now.Sub(t.started) }

// Waited is how long the ticket was queued before its current start.
func (t *Ticket) Waited() time.Duration { return t.started.Sub(t.at) }
