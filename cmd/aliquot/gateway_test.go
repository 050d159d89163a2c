package main

import "testing"

// Two gateways on one host are two in Consul, and so the end of one removes only itself.
func TestGatewaysOfOneHostHaveNamesOfTheirOwn(t *testing.T) {
	t.Setenv("NOMAD_ALLOC_ID", "")
	if a, b := gatewayID(":8080"), gatewayID(":8090"); a == b {
		t.Errorf("both are %s", a)
	}
	t.Setenv("NOMAD_ALLOC_ID", "alloc")
	if id := gatewayID(":8080"); id != "aliquot-gateway-alloc" {
		t.Errorf("under Nomad it is %s", id)
	}
}
