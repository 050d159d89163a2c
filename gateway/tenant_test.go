package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"testing"

	"aliquot/gateway/config"
	"aliquot/gateway/match"
)

func TestKeysThatNobodyHasShareOneAccount(t *testing.T) {
	sum := sha256.Sum256([]byte("sk-known"))
	ts := tenants{config.Tenants{APIKey: true, Keys: map[string]string{hex.EncodeToString(sum[:]): "acme"}}}
	for key, want := range map[string]string{"sk-known": "acme", "sk-1": "", "sk-2": "", "": ""} {
		if got := ts.of(http.Header{"Authorization": {"Bearer " + key}}); got != want {
			t.Errorf("key %q is tenant %q, want %q", key, got, want)
		}
	}
}

func TestDeclaredCostsCountForThoseWhoMay(t *testing.T) {
	for tenant, want := range map[string]float64{"may": 5, "mayNot": 0, "unknown": 0} {
		x := &exchange{
			in:      &http.Request{Header: http.Header{"X-Tenant": {tenant}}},
			plan:    &plan{config: &config.Config{}, tenants: tenants{config.Tenants{Header: "X-Tenant", Declares: map[string]bool{"may": true, "mayNot": false}}}},
			service: &service{},
		}
		x.ask(&match.Facts{Cost: 5})
		if x.request.Cost != want {
			t.Errorf("tenant %q: cost %v, want %v", tenant, x.request.Cost, want)
		}
	}
}
