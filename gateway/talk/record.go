// Package talk holds the messages between gateways: records, many of which travel in
// one frame. The encoding is that of Protocol Buffers, so that a release may add
// fields and kinds which an older one ignores.
package talk

import (
	"time"

	"aliquot.example/internal/dispatch"
)

// Version is the version of what the records mean. A gateway of version N understands
// frames of the versions N and N-1. It begins a stream with frames of version N-1, says
// in Hello that it speaks N, and goes on with the lower version of both ends.
const Version = 1

// Common returns the version in which two gateways speak: own is the version of this
// one, other that of the other one; 0 before the other one has said it.
func Common(own, other uint64) uint64 {
	if other == 0 {
		return max(own-1, 1)
	}
	return min(own, other)
}

// Kind tells records apart.
type Kind uint64

// The kinds. They keep their numbers.
const (
	Hello Kind = 1 // who opens the stream, and its process
	Beat  Kind = 2 // the gateway is there

	// From a gateway that carries requests to the owner.
	Begin    Kind = 10 // a report begins; what was reported before is void
	Seat     Kind = 11 // a request that waits or, with Replica, is being served
	End      Kind = 12 // the report is complete
	Enter    Kind = 13 // a request asks for a slot
	Again    Kind = 14 // it gives its slot back and asks for another
	Leave    Kind = 15 // it gives its slot back
	Withdraw Kind = 16 // it asks no more
	Mark     Kind = 17 // what of its answer has come
	Lost     Kind = 18 // the sender follows nobody and takes the receiver for the owner

	// From the owner.
	Claimed Kind = 20 // the sender owns the service in this epoch
	Ended   Kind = 21 // it grants no more in this epoch
	Lapsed  Kind = 22 // it cannot prove its epoch and grants nothing until it says Claimed
	Grant   Kind = 23 // the request has a slot of Replica
	Refused Kind = 24 // the request is not queued

	// From any gateway to any other.
	Newer Kind = 30 // a later epoch was taken by Gateway
	Spent Kind = 31 // a tenant used tokens
)

// Record is one message. Each kind sets the fields that it needs.
type Record struct {
	Kind    Kind
	Service string
	Epoch   uint64
	// ID names a request of the gateway that carries it. That of Claimed returns in the
	// Begin of the report that answers it.
	ID uint64
	// Report is the number of the report that Begin begins, and of the one that an owner
	// had of a gateway when it decided.
	Report uint64

	// Request is that of Enter and Seat. On the wire its times are spans from now, as
	// the clocks of two hosts differ.
	Request *dispatch.Request
	Arrived time.Time
	Started time.Time
	// Require and Prefer are the classes of the request's placement, which gateways whose
	// rules differ know by other numbers.
	Require, Prefer []string

	Replica, Address, Class string

	Verdict dispatch.Verdict
	Pause   time.Duration
	// Began, Tokens, and what an engine told of the request; -1 is unknown.
	Began                  bool
	Tokens                 int
	Told                   bool
	Prompt, Cached, Output int

	Why   dispatch.Refusal
	After time.Duration

	// Salt is that of the hashes of prompts, which all gateways of a service have to
	// share; of Claimed.
	Salt [2]uint64

	Gateway string // of Hello and Newer
	Process uint64 // of Hello
	Speaks  uint64 // the Version of the sender; of Hello
	Beat    uint64 // the number of a Beat, and of the one that was heard last
	Heard   uint64
	Leaving bool
	Loads   []Load // of Beat
	// Charges is the owner's account of fairness; of Ended, and in the Loads of its Beats.
	Charges []dispatch.Charge

	Tenant string // of Spent
	Amount float64
}

// Load is what a gateway carries of a service.
type Load struct {
	Service  string
	Queued   int
	Replicas []Held
	Tokens   int // of the requests that wait
	// Charges is all that the owner has charged where Tallied is set.
	Tallied bool
	Charges []dispatch.Charge
	// Follows is the epoch whose owner the gateway follows; 0 for none.
	Follows uint64
	// Config tells one configuration of the service from another.
	Config uint64
}

// Held is how many requests a gateway has on a replica.
type Held struct {
	Replica, Class string
	Count          int
	Tokens         int // of those requests
}
