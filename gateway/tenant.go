package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"aliquot.example/gateway/config"
)

// tenants determines the tenant of a request.
type tenants struct {
	config.Tenants
}

// of returns the tenant of a request, "" for the default.
//
// All unknown API keys count as the default tenant: a client must not get more turns by inventing
// keys.
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

// configured returns the tenant's name in limits, where the default is "".
func configured(name string) string {
	if name == "default" {
		return ""
	}
	return name
}

// declares reports whether the tenant may declare the cost of its requests.
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

// named reports whether a tenant is configured or the default, and not a name that a client invented.
func (t *tenants) named(tenant string) bool {
	_, ok := t.Limits[tenant]
	return ok || tenant == ""
}

// known returns the tenant's name for metrics. Only configured tenants have one, so that clients
// cannot create series.
func (t *tenants) known(name string) string {
	if t.named(name) && name != "" {
		return name
	}
	return "other"
}

// priority returns the priority of a tenant's request that requests one by name. The tenant's
// ceiling limits it.
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
