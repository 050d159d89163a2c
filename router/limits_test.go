package router_test

import (
	"os"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"aliquot.example/e2e/consultest"
)

// The documented entry of a caller reaches its Envoy for every class, and the router's own
// entries leave it alone.
func TestACallersLimitsHoldForEveryClass(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/router.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```hcl\nKind ")
	example, _, _ := strings.Cut(rest, "```")
	f := start(t, nil)
	counts := map[string]int{"h100": 2, "l4": 1}
	proxy := f.mesh("chat", counts)
	f.route(f.conf(""))
	f.awaitChain("chat", want(t, counts))
	if err := f.Command("Kind "+example, "config", "write", "-"); err != nil {
		t.Fatal(err)
	}
	limits := map[string][3]uint32{}
	_, err = f.FollowFor(20*time.Second, proxy, func(e *consultest.Envoy) bool {
		clear(limits)
		for name, c := range e.Clusters {
			// A class leads to a cluster for each that it fails over to.
			if strings.Contains(name, "chat") && c.GetClusterType() == nil {
				limits[subset(name)] = thresholds(c)
			}
		}
		for _, l := range limits {
			if l != [3]uint32{4096, 2048, 4096} {
				return false
			}
		}
		return len(limits) == 4
	})
	if err != nil {
		t.Errorf("%v; the limits are %v", err, limits)
	}
}

// thresholds are the connections, waiting requests and requests in flight of a cluster.
func thresholds(c *clusterv3.Cluster) (out [3]uint32) {
	for _, t := range c.GetCircuitBreakers().GetThresholds() {
		out = [3]uint32{t.GetMaxConnections().GetValue(), t.GetMaxPendingRequests().GetValue(), t.GetMaxRequests().GetValue()}
	}
	return out
}
