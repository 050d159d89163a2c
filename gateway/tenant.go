package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"aliquot.example/gateway/config"
)

// tenants tells who a request is from.
type tenants struct {
	config.Tenants
}

// of returns the tenant that a request is accounted to; "" for the default.
//
// All API keys that are not configured share the default's account: who makes up
// keys must not get a turn for each.
func (t *tenants) of(h http.Header) string {
	if t.APIKey {
		if key := apiKey(h); key != "" {
			sum := sha256.Sum256([]byte(key))
			return configured(t.Keys[hex.EncodeToString(sum[:])])
		}
	}
	if t.Header != "" {
		name := h.Get(t.Header)
		return name[:min(len(name), 64)]
	}
	return ""
}

// configured is a tenant's name as limits know it.
func configured(name string) string {
	if name == "default" {
		return ""
	}
	return name
}

// declares reports whether what the tenant says of its requests' cost counts.
func (t *tenants) declares(tenant string) bool {
	may, ok := t.Declares[tenant]
	if !ok {
		may = t.Declares[""]
	}
	return may
}

func apiKey(h http.Header) string {
	if v := h.Get("Authorization"); len(v) > 7 && strings.EqualFold(v[:7], "Bearer ") {
		return strings.TrimSpace(v[7:])
	}
	return h.Get("X-Api-Key")
}

// named reports whether a tenant is configured, or the default: nobody made it up.
func (t *tenants) named(tenant string) bool {
	_, ok := t.Limits[tenant]
	return ok || tenant == ""
}

// known returns the name under which metrics may speak of a tenant: only
// configured ones, so that clients cannot make series.
func (t *tenants) known(name string) string {
	if t.named(name) && name != "" {
		return name
	}
	return "other"
}

// priority returns the priority of a tenant's request that asks for one by name.
func (t *tenants) priority(tenant, asked string, names []string, otherwise int) int {
	ceiling, ok := t.Ceiling[tenant]
	if !ok {
		ceiling = t.Ceiling[""]
	}
	p := otherwise
	for i, name := range names {
		if name == asked {
			p = i
		}
	}
	return max(p, ceiling)
}
