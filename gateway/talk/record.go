// Package talk defines the messages between gateways: records, of which a frame can have many. They
// are encoded as Protocol Buffers, so that a release can add fields and kinds that an older one
// ignores.
package talk

import (
	"time"

	"aliquot.example/internal/dispatch"
)

// Version is the version of the protocol. A gateway of version N understands frames of versions N
// and N-1. It starts a stream with frames of version N-1, announces N in Hello, and continues with
// the lower version of both gateways.
const Version = 1

// Common returns the version that two gateways use. own is the version of this gateway, other that
// of the other one, 0 while unknown.
func Common(own, other uint64) uint64 {
	if other == 0 {
		return max(own-1, 1)
	}
	return min(own, other)
}

// Kind is the kind of a record.
type Kind uint64

// The kinds. Their numbers must never change.
const (
	Hello     Kind = 1 // the gateway that opens the stream, and its process
	Heartbeat Kind = 2 // heartbeat of a gateway

	// From a gateway that carries requests to the owner.
	Begin    Kind = 10 // start of a report, which replaces earlier ones
	Entry    Kind = 11 // a request that waits or, with Replica, is being served
	End      Kind = 12 // end of the report
	Enter    Kind = 13 // a request asks for a slot
	Again    Kind = 14 // a request gives its slot back and asks for another one
	Leave    Kind = 15 // a request gives its slot back
	Withdraw Kind = 16 // a request no longer asks for a slot
	Mark     Kind = 17 // progress of a request's answer
	Lost     Kind = 18 // the sender follows no owner and assumes that the receiver is the owner

	// From the owner.
	Claimed Kind = 20 // the sender owns the service in this epoch
	Ended   Kind = 21 // the sender grants no more slots in this epoch
	Lapsed  Kind = 22 // the sender cannot confirm its epoch, and grants no slots until the next Claimed
	Grant   Kind = 23 // the request has a slot of Replica
	Refused Kind = 24 // the request was refused
	Holds   Kind = 25 // before Ended and Lapsed: Gateway held the slots in the only one of Loads at Started

	// From any gateway to any other.
	Newer Kind = 30 // Gateway owns the service in a later epoch
	Spent Kind = 31 // a tenant used tokens
)

// FromOwner reports whether only an owner sends records of this kind.
func (k Kind) FromOwner() bool {
	switch k {
	case Claimed, Ended, Lapsed, Grant, Refused, Holds:
		return true
	}
	return false
}

// Record is one message. Each kind uses some of the fields.
type Record struct {
	Kind    Kind
	Service string
	Epoch   uint64
	// ID identifies a request of the gateway that carries it. The ID of Claimed is repeated in the
	// Begin of the report that answers it.
	ID uint64
	// Report is the number of a report: of the one that Begin starts, or of the one on which the
	// owner's decision is based.
	Report uint64

	// Request is the request of Enter and Entry. On the wire its times are relative to now, because
	// the clocks of two hosts differ.
	Request *dispatch.Request
	Arrived time.Time
	Started time.Time
	// Require and Prefer are the classes of the request's placement. Gateways with different rules
	// have different numbers for it.
	Require, Prefer []string

	Replica, Address, Class string

	Verdict dispatch.Verdict
	Pause   time.Duration
	// The progress of the request, and, if HasUsage, the usage that its engine reported; -1 means
	// unknown.
	Began                  bool
	Tokens                 int
	HasUsage               bool
	Prompt, Cached, Output int

	Refusal dispatch.Refusal
	After   time.Duration

	// Salt, in Claimed, is the salt of the hashes of prompts. All gateways of a service have to use
	// the same.
	Salt [2]uint64

	Gateway    string // in Hello, Newer and Holds
	Process    uint64 // in Hello
	MaxVersion uint64 // in Hello: the Version of the sender
	Heartbeat  uint64 // the number of this heartbeat
	Heard      uint64 // the number of the last heartbeat received
	Leaving    bool
	Loads      []Load // in Heartbeat and Holds
	// Hears, in Heartbeat, are the gateways that the sender hears and that hear it.
	Hears []string
	// Charges, in Ended and in the Loads of an owner's heartbeats, are the owner's accounts of fairness.
	Charges []dispatch.Charge

	Tenant string // in Spent
	Amount float64
}

// Load describes the requests of a gateway to one service.
type Load struct {
	Service  string
	Queued   int
	Replicas []Held
	Tokens   int // of the waiting requests
	// Charges are all charges of the owner if AllCharges is set.
	AllCharges bool
	Charges    []dispatch.Charge
	// Follows is the epoch of the owner that the gateway follows or is, 0 for none.
	Follows uint64
	// Config identifies the configuration of the service.
	Config uint64
}

// Held is the number of requests of a gateway on one replica.
type Held struct {
	Replica, Class string
	Count          int
	Tokens         int // of those requests
}
