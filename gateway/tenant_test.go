package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"testing"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/match"
	"aliquot.example/internal/allowance"
	"aliquot.example/internal/dispatch"
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
			in:   &http.Request{Header: http.Header{"X-Tenant": {tenant}}},
			plan: &plan{config: &config.Config{}, tenants: tenants{config.Tenants{Header: "X-Tenant", Declares: map[string]bool{"may": true, "mayNot": false}}}},
		}
		if err := x.ask(&service{}, &match.Facts{Cost: 5}); err != nil {
			t.Fatal(err)
		}
		if x.request.Cost != want {
			t.Errorf("tenant %q: cost %v, want %v", tenant, x.request.Cost, want)
		}
	}
}

// Names that a client makes up fill what there is for such, and take nothing from
// tenants that are configured.
func TestMadeUpTenantsDisplaceNoneThatIsConfigured(t *testing.T) {
	ts := tenants{config.Tenants{Limits: map[string]dispatch.Limits{"acme": {}}}}
	now := time.Now()
	usage, spent := newAccounts(), allowances{of: map[string]*allowance.Account{}}
	for i := range 2 * maxAccounts {
		name := fmt.Sprint("made-up-", i)
		usage.add("m", name, ts.named(name), &sample{prompt: 1})
		spent.take(name, ts.named(name), 100, 50, now)
	}
	if n := len(usage.of); n > maxAccounts+1 {
		t.Errorf("%d accounts of usage", n)
	}
	if n := len(spent.of); n > maxAllowances+1 {
		t.Errorf("%d accounts of tokens per minute", n)
	}
	usage.add("m", "acme", ts.named("acme"), &sample{prompt: 7})
	if u := usage.of[account{"m", "acme"}]; u == nil || u.Prompt != 7 {
		t.Errorf("the usage of acme: %+v", u)
	}
	// The account that the others share is empty by now.
	if _, ok, after := spent.take("other", ts.named("other"), 100, 60, now); ok || after <= 0 {
		t.Error("made-up tenants have more than one account to share")
	}
	if _, ok, _ := spent.take("acme", ts.named("acme"), 100, 60, now); !ok {
		t.Error("acme has no tokens of its own")
	}
}
