package router

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

// What to do is said by the answer's status, not by digits that stand in a URL or
// an address.
func TestHintsFollowTheAnswersStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		hint string
	}{
		{api.StatusError{Code: 403, Body: "Permission denied: token lacks permission"}, "jobs/router-policy.hcl"},
		{fmt.Errorf("instances of chat: %w", api.StatusError{Code: 429, Body: "Your IP is issuing too many concurrent connections"}), "http_max_conns_per_client"},
		{api.StatusError{Code: 500, Body: "rpc error making call: Permission denied"}, "jobs/router-policy.hcl"},
		{api.StatusError{Code: 500, Body: "No cluster leader"}, ""},
		{errors.New(`Get "http://127.0.0.1:14293/v1/health/service/chat?index=14031&wait=300000ms": connect: connection refused`), ""},
	} {
		got := hint(c.err)
		if !errors.Is(got, c.err) || c.hint == "" && got.Error() != c.err.Error() || !strings.Contains(got.Error(), c.hint) {
			t.Errorf("got %v, want the hint %q", got, c.hint)
		}
	}
}
