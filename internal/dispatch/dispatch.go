// Package dispatch decides which waiting request of a service is served next and by which replica,
// on replicas of unequal speed. It holds state and makes decisions; it reads no clock and starts
// nothing. Its caller serializes all calls with a lock, passes the time, and acts on the results.
//
// The policy is one central queue per service with late binding: a request is assigned to a replica
// only when a slot of it is free. The fastest free slot is taken first, and a slow slot only if
// waiting for a fast one would cost more (Lin and Kumar, "Optimal control of a queueing system with
// two heterogeneous servers", 1984). Requests are ordered by priority, then between tenants by the
// cost that each was served (the virtual token counter of Sheng et al., "Fairness in serving large
// language models", OSDI 2024), then by deadline.
package dispatch

import "time"

// Mode says how a service's replicas serve several requests at once.
type Mode int

// The modes.
const (
	// Slots is for servers that process each request independently of the others.
	Slots Mode = iota
	// Tokens is for engines that batch continuously, such as vLLM. The queue keeps books of tokens
	// for each replica, and a request goes where it costs the fewest seconds.
	Tokens
)

// SLO is the service's objective for streamed answers; 0 means none.
type SLO struct {
	TTFT time.Duration // from the request's arrival to its first token
	TPOT time.Duration // between two tokens
}

// Policy is the operator's configuration of one service. Zero fields mean their defaults.
type Policy struct {
	Mode Mode
	// SLO is the objective. In Tokens mode a request that misses it costs missCost seconds more.
	SLO SLO
	// Theta is the factor by which a request may take longer on a slow slot than it is expected to
	// take when it waits for a fast one; 0 adapts the factor to the load.
	Theta float64
	// SendAhead is how many requests a busy replica is sent beyond its slots, which it has to queue
	// itself. In Slots mode only; 0 sends none.
	SendAhead int
	// Priorities is the number of priorities; 0 means 1.
	Priorities int
	// MaxQueue limits the number of waiting requests; 0 means no limit.
	MaxQueue int
	// Placements are the hardware rules to which requests refer by index. Index 0 is always
	// "anywhere", whether listed or not.
	Placements []Placement
	// Tenants are limits by tenant; the entry "" applies to tenants that are not listed.
	Tenants map[string]Limits
	// AwaitClass queues requests that require a class without replicas. It is set if replicas of
	// such a class can be started.
	AwaitClass bool
	// Eject configures how a failing replica is taken out of service.
	Eject Ejection
}

// Placement says which hardware classes a request may use.
type Placement struct {
	// Require lists the only classes allowed; empty allows all.
	Require []string
	// Prefer lists classes whose free slots are taken before those of others.
	Prefer []string
}

// Limits are the limits of one tenant. Zero means no limit, and a Weight of 0 means 1.
type Limits struct {
	Weight    float64 // share of service relative to other tenants
	MaxActive int     // maximum requests in service
	MaxQueue  int     // maximum waiting requests
}

// Request is what the policy needs to know about a request.
type Request struct {
	Tenant    string
	Priority  int // 0 is the most urgent; below Policy.Priorities
	Placement int // index into Policy.Placements
	// Cost is the work that the request declares, in any unit that all requests of the service
	// share. 0 means undeclared and counts as 1. It counts as at least 1/64 and at most 64 times
	// what requests of the service usually declare. The measured work replaces it afterwards.
	Cost float64
	// Expire is the latest start: the request must not wait longer.
	Expire time.Time
	// Deadline is the latest useful end, or zero if the client gave none.
	Deadline time.Time

	// Prompt is the number of prompt tokens, as far as it is known.
	Prompt int
	// Output is the expected number of tokens of the answer; 0 means the service's mean.
	Output int
	// Blocks are chained hashes of the prompt's full blocks of BlockTokens, in order. Equal hashes
	// mean equal prompts up to the end of that block.
	Blocks []uint64
	// Whole is set if the answer is not streamed, so that its first token and its progress are not
	// visible.
	Whole bool
}

// BlockTokens is the number of prompt tokens that one hash of Request.Blocks covers.
const BlockTokens = 512

// order returns the request's key for earliest-deadline-first order.
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
	// Slices is the number of slices of the replica's GPU that it has, of Total. If Total is at
	// most 1, Slices counts whole GPUs. Replicas of one class with as many slices are expected to
	// be equally fast.
	Slices, Total int
	// Slots is the number of requests that it serves at once, at least 1. In Tokens mode, 1 means
	// that the number is unknown and there is no limit.
	Slots int
	// Withheld is the number of slots that this queue must not use, because others may use them.
	Withheld int
	// Weight is the expected speed per slot relative to other replicas of the service, used until
	// speeds are learned. It must not be negative; 0 counts as 1. In Tokens mode Weight x Slots is
	// the replica's speed relative to an H100 if Class is not in the hardware table. If Class is in
	// the table, it says what part of the GPU the replica has.
	Weight float64
	// KV is the number of tokens that the engine's cache holds; 0 if unknown.
	KV int
	// MaxPrompt is the longest prompt that it accepts, in tokens; 0 if unknown.
	MaxPrompt int
	// Sleep is the state of its sleep mode. A replica that sleeps has lost its cache.
	Sleep Sleep
}

// EngineState holds an engine's metrics.
type EngineState struct {
	Running, Waiting int
	KVUsed           float64 // used fraction of its cache, 0 to 1
}

// Refusal is the reason why a request was not queued, or Accepted.
type Refusal int

// The reasons for a refusal.
const (
	Accepted    Refusal = iota
	QueueFull           // Policy.MaxQueue requests wait
	TenantFull          // the tenant's Limits.MaxQueue requests wait
	TooLate             // it would expire or miss its deadline before it is served
	NoSuchClass         // there are replicas, but none of a class that the placement requires
)

// Verdict is the result of an attempt on a replica, for this policy. The gateway itself records the
// request's result for its client.
type Verdict int

// The verdicts on an attempt.
const (
	Served      Verdict = iota // the replica answered; its time is learned
	Neutral                    // it ended for a reason unrelated to the replica, such as a client that left
	Failed                     // the replica broke the exchange, or answered with the status of a failing server
	Unreachable                // no connection could be established
	Busy                       // the replica refused it temporarily
)

// Ticket is one request in the queue or on a replica. The caller allocates it and sets Request and
// Value, and must not change it once it is submitted.
type Ticket struct {
	Request
	// Value is for the caller; the policy ignores it.
	Value any

	seq      uint64
	at       time.Time // when it entered the queue
	started  time.Time
	occupied float64 // used fraction of the replica's slots at the start
	cost     float64 // in units of the median declared cost
	charged  float64 // at the start, in mean requests
	lane     *lane
	rule     *placement // its Placement
	speed    float64    // of its slot, when it started
	due      time.Time  // Request.order
	waiting  bool
	node     node
	on       *server
	early    bool // in on.early: sent ahead, and not started yet
	entry    entry
	avoid    *server // the replica on which it failed, while it waits for a retry
}

// Replica returns the replica that serves the ticket, or false while the ticket waits.
func (t *Ticket) Replica() (Replica, bool) {
	if t.on == nil {
		return Replica{}, false
	}
	return t.on.Replica, true
}

// Held returns how long the ticket has held its current slot.
func (t *Ticket) Held(now time.Time) time.Duration { return now.Sub(t.started) }
