package weigh

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/gpu"
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
	// Instances may ask for a ring hash where it is LeastRequest.
	Balance string
}

// LeastRequest balances by the fewest requests in flight of two random instances.
const LeastRequest = "least_request"

// RingHash balances by a hash of the first of some request headers that a request has, so
// that equal values meet the same instance of a class for as long as the class keeps its
// instances.
func RingHash(headers ...string) string { return ringHash + strings.Join(headers, ",") }

const ringHash = "ring_hash "

// HashHeaders returns the headers of a balance made by RingHash, none of another.
func HashHeaders(balance string) []string {
	list, ok := strings.CutPrefix(balance, ringHash)
	if !ok || list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// mostHeaders bounds the headers of one ring hash.
const mostHeaders = 4

// Headers reads the headers of a ring hash as operators and instances name them: by comma,
// the one that counts most first.
func Headers(text string) ([]string, error) {
	var out []string
	for _, name := range strings.Split(text, ",") {
		name = strings.TrimSpace(name)
		if err := CheckHeader(name); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, name) }) {
			out = append(out, name)
		}
	}
	if len(out) > mostHeaders {
		return nil, fmt.Errorf("%d headers: want at most %d", len(out), mostHeaders)
	}
	return out, nil
}

// balance is how requests are spread inside a class: as the file says, else as most of
// those instances ask that ask for something. While none is registered it stays.
func (b *builder) balance() string {
	v, p := b.view, b.plan
	if HashHeaders(v.Tuning.Balance) != nil || v.Tuning.Balance == "" {
		return v.Tuning.Balance
	}
	if o, ok := v.Have[Key{Resolver, v.Service}]; len(v.Instances) == 0 && ok && o.Ours {
		return o.Entry.Tuning.Balance
	}
	asked := map[string]int{}
	for _, in := range v.Instances {
		if in.Affinity == "" {
			continue
		}
		headers, err := Headers(in.Affinity)
		if err != nil {
			p.Notes = append(p.Notes, fmt.Sprintf("instance %q: %s: %v, so it is ignored", in.ID,
				gpu.MetaAffinity, err))
			continue
		}
		asked[RingHash(headers...)]++
	}
	if len(asked) == 0 {
		return v.Tuning.Balance
	}
	all := slices.SortedFunc(maps.Keys(asked), func(a, b string) int {
		return cmp.Or(asked[b]-asked[a], cmp.Compare(a, b))
	})
	if len(all) > 1 {
		p.Notes = append(p.Notes, fmt.Sprintf("instances differ in %s: that of the most holds, %s", gpu.MetaAffinity,
			strings.Join(HashHeaders(all[0]), ",")))
	}
	return all[0]
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
			p.Notes = append(p.Notes,
				fmt.Sprintf("%s has more slots than the %d requests that Envoy sends to one subset by default: "+
					"raise the limits of %s in upstream_config of the service-defaults of its callers", name,
					envoyRequests, v.Service))
		}
	}
	if v.Tuning.RequestTimeout == 0 {
		return
	}
	for kind, field := range map[Kind]string{Defaults: "LocalRequestTimeoutMs",
		Router: "RequestTimeout in each route"} {
		o, ok := v.Have[Key{kind, v.Service}]
		if ok && !o.Ours && o.Entry.Tuning.RequestTimeout == 0 {
			p.Notes = append(p.Notes,
				fmt.Sprintf("%s is hand-written without a time-out, so Envoy cuts answers after 15s: set %s",
					o.Entry.Key, field))
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
