// Package ownership decides which of several gateways decides for a service, and what each of them
// may do while the owner is unknown. It contains only the protocol: its inputs are messages, losses
// and times, its outputs are roles. It reads no clock and sends nothing.
//
// Each service has one owner. It is the first of the live gateways in an order that all of them
// compute in the same way (rendezvous hashing), and it holds an epoch that it took in Consul by
// check-and-set. It grants slots during its lease, which ends before another gateway can grant
// under a later epoch.
package ownership

import (
	"cmp"
	"slices"
)

// ID names a gateway: the address at which it listens for the others.
type ID string

// Order returns the gateways in the order in which they would own a service. A gateway that leaves
// or joins moves only the services that it owns or will own (Thaler and Ravishankar, "Using
// name-based mappings to increase hit rates", 1998).
func Order(service string, gateways []ID) []ID {
	out := slices.Clone(gateways)
	slices.SortFunc(out, func(a, b ID) int {
		return cmp.Or(cmp.Compare(score(service, b), score(service, a)), cmp.Compare(a, b))
	})
	return slices.Compact(out)
}

// score is a hash of both names: FNV-1a, finished as SplitMix64 does, because FNV's
// high bits hardly depend on the last bytes.
func score(service string, id ID) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, text := range []string{service, "\x00", string(id)} {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 0x100000001b3
		}
	}
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9
	h = (h ^ (h >> 27)) * 0x94d049bb133111eb
	return h ^ (h >> 31)
}

// Part returns how many of a replica's slots one of the gateways may use while there is no owner.
// The parts of all gateways add up to the slots.
func Part(replica string, slots int, of ID, gateways []ID) int {
	order := Order(replica, gateways)
	at := slices.Index(order, of)
	if at < 0 {
		return 0
	}
	part := slots / len(order)
	if at < slots%len(order) {
		part++
	}
	return part
}
