package gateway

import (
	"net/http"
	"testing"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/wire"
)

// The own client speaks HTTP/1.1 without TLS, and leaves the rest to net/http.
func TestWhoSpeaksToAReplica(t *testing.T) {
	for _, c := range []struct {
		client, protocol string
		grpc, upgrade    bool
		own              bool
	}{
		{"net/http", "auto", false, false, false},
		{"wire", "auto", false, false, true},
		{"wire", "auto", true, false, false},
		{"wire", "auto", false, true, false},
		{"wire", "http1", false, false, true},
		{"wire", "http1", true, false, true}, // not gRPC's way, but what was configured
		{"wire", "h2c", false, false, false},
		{"wire", "https", false, false, false},
	} {
		ways, err := newTransports(config.Upstream{Client: c.client, Protocol: c.protocol, ConnectTimeout: time.Second}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var way http.RoundTripper = ways.to(c.grpc, c.upgrade)
		if _, own := way.(*wire.Transport); own != c.own {
			t.Errorf("%+v: %T", c, way)
		}
	}
}
