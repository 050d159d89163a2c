package weigh

import (
	"fmt"
	"time"
)

// Tuning is what the router sets of entries besides shares and rules. It is a
// default only: where an operator has set such a field himself, his value stays.
// Each kind of entry uses the fields that it has; a zero field is left alone.
type Tuning struct {
	// RequestTimeout bounds a whole answer, IdleTimeout the time without a byte;
	// below 0 there is no bound. Without them Envoy's own hold, 15 s for the whole
	// answer and 5 min for silence.
	RequestTimeout, IdleTimeout time.Duration
	// Retries is how often a request is tried elsewhere when no connection came about.
	Retries int
	// Balance is how requests are spread inside a class, see LeastRequest and RingHash.
	Balance string
}

// LeastRequest balances by the fewest requests in flight of two random instances.
const LeastRequest = "least_request"

// RingHash balances by a hash of a request header, so that equal values meet the same
// instance of a class for as long as the class keeps its instances.
func RingHash(header string) string { return ringHash + header }

const ringHash = "ring_hash "

// HashHeader returns the header of a balance made by RingHash.
func HashHeader(balance string) (string, bool) {
	if len(balance) <= len(ringHash) || balance[:len(ringHash)] != ringHash {
		return "", false
	}
	return balance[len(ringHash):], true
}

// of returns the part that a kind of entry holds.
func (t Tuning) of(kind Kind) Tuning {
	switch kind {
	case Defaults:
		return Tuning{RequestTimeout: t.RequestTimeout}
	case Resolver:
		return Tuning{RequestTimeout: t.RequestTimeout, Balance: t.Balance}
	case Router:
		return Tuning{RequestTimeout: t.RequestTimeout, IdleTimeout: t.IdleTimeout, Retries: t.Retries}
	}
	return Tuning{}
}

// CheckHeader says whether a header can be hashed or matched.
func CheckHeader(name string) error {
	if !headerName.MatchString(name) {
		return fmt.Errorf("header name %.80q is no HTTP token of at most 64 characters", name)
	}
	return nil
}

// envoyRequests is how many requests Envoy has in flight to one subset at most
// where nothing says otherwise.
const envoyRequests = 1024

// tuningNotes names what keeps the tuning from having its effect. Consul takes limits
// of requests from the caller's service-defaults only, so they can be named but not
// written here.
func (b *builder) tuningNotes() {
	v, p := b.view, b.plan
	slots := map[string]int{}
	for _, in := range v.Instances {
		if in.Healthy {
			slots[in.Group.Name()] += in.Slots
		}
	}
	for _, name := range p.Order {
		if slots[name] > envoyRequests {
			p.Notes = append(p.Notes, fmt.Sprintf("%s has more slots than the %d requests that Envoy sends to one subset by default: raise the limits of %s in upstream_config of the service-defaults of its callers", name, envoyRequests, v.Service))
		}
	}
	if v.Tuning.RequestTimeout == 0 {
		return
	}
	for kind, field := range map[Kind]string{Defaults: "LocalRequestTimeoutMs", Router: "RequestTimeout in each route"} {
		o, ok := v.Have[Key{kind, v.Service}]
		if ok && !o.Ours && o.Entry.Tuning.RequestTimeout == 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("%s is hand-written without a time-out, so Envoy cuts answers after 15s: set %s", o.Entry.Key, field))
		}
	}
}

// protocolOf decides the protocol of a service's service-defaults. What is in force
// by proxy-defaults stays in force, unless the file names one for the service. It has
// to be written all the same: Consul takes service-defaults without one for tcp.
func (v View) protocolOf() string {
	if v.ProtocolNamed || !httpLike(v.Inherited) {
		return v.Protocol
	}
	return v.Inherited
}
