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

// Tuning has the settings that the router writes besides shares and rules. They are defaults: a field
// that an operator has changed stays. Each kind of entry uses some of the fields; a zero field is not
// written.
type Tuning struct {
	// RequestTimeout limits a whole answer, IdleTimeout the time without a byte. Values below 0 mean
	// no limit. Without them, Envoy's defaults apply: 15 s for the whole answer and 5 min without a
	// byte.
	RequestTimeout, IdleTimeout time.Duration
	// Retries is the number of retries on other instances after a failed connection.
	Retries int
	// Balance is the balancing between the instances of a class; see LeastRequest and RingHash.
	// Instances can replace LeastRequest with a ring hash.
	Balance string
}

// LeastRequest sends a request to that of two random instances with fewer requests in flight.
const LeastRequest = "least_request"

// RingHash sends a request to an instance by the hash of a header: the first of the given headers
// that the request has. Equal values reach the same instance of a class while the class keeps its
// instances.
func RingHash(headers ...string) string { return ringHash + strings.Join(headers, ",") }

const ringHash = "ring_hash "

// HashHeaders returns the headers of a balance from RingHash, nil for any other balance.
func HashHeaders(balance string) []string {
	list, ok := strings.CutPrefix(balance, ringHash)
	if !ok || list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// maxHeaders is the largest number of headers of one ring hash.
const maxHeaders = 4

// Headers parses the headers of a ring hash, which operators and instances list separated by commas
// with the most important first.
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
	if len(out) > maxHeaders {
		return nil, fmt.Errorf("%d headers: want at most %d", len(out), maxHeaders)
	}
	return out, nil
}

// balance returns the balancing between the instances of a class: that of the file, otherwise the one
// that most instances request. While no instance is registered, it does not change.
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
		p.Notes = append(p.Notes, fmt.Sprintf("instances differ in %s: the most frequent value applies, %s",
			gpu.MetaAffinity, strings.Join(HashHeaders(all[0]), ",")))
	}
	return all[0]
}

// of returns the fields that a kind of entry has.
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

// CheckHeader returns an error if a header cannot be hashed or matched.
func CheckHeader(name string) error {
	if !headerName.MatchString(name) {
		return fmt.Errorf("header name %.80q is not an HTTP token of at most 64 characters", name)
	}
	return nil
}

// envoyRequests is Envoy's default limit of requests in flight to one subset.
const envoyRequests = 1024

// tuningNotes adds notes about limits that other entries impose. The limit of requests belongs to the
// callers' service-defaults, which the router does not write.
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
				fmt.Sprintf("%s is hand-written without a timeout, so Envoy cuts off answers after 15s: set %s",
					o.Entry.Key, field))
		}
	}
}

// protocolOf returns the protocol for the service's service-defaults: that of proxy-defaults,
// unless the file sets one for the service. An inherited protocol has to be written too: Consul
// treats service-defaults without a protocol as tcp.
func (v View) protocolOf() string {
	if v.ProtocolNamed || !httpLike(v.Inherited) {
		return v.Protocol
	}
	return v.Inherited
}
