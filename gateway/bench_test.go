package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"aliquot/gateway/config"
	"aliquot/gateway/line"
	"aliquot/internal/dispatch"
)

// canned answers without a network, so that what is measured is the proxy's own
// work.
type canned struct{}

func (canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"text/plain"}}, Body: http.NoBody, Request: r}, nil
}

type discard struct{ h http.Header }

func (*discard) SetWriteDeadline(time.Time) error { return nil }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

func benchmark(b *testing.B, h http.Handler) {
	r := httptest.NewRequest(http.MethodGet, "http://x/", nil)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(&discard{http.Header{}}, r)
	}
}

func BenchmarkPlainReverseProxy(b *testing.B) {
	target, _ := url.Parse("http://replica")
	benchmark(b, &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		Transport:  canned{},
		BufferPool: &bufferPool{},
	})
}

func BenchmarkGateway(b *testing.B) {
	c, err := config.Parse([]byte("access_log = \"off\"\nservice \"m\" {\n  replica {\n    address = \"127.0.0.1:1\"\n    slots = 4\n  }\n}\n"), "bench.hcl")
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(c, Options{Source: func(config.Service) (Source, error) { return nil, nil }})
	if err != nil {
		b.Fatal(err)
	}
	v := s.plan.Load().services[0]
	v.line.Set([]line.Replica{{Address: "127.0.0.1:1", Replica: dispatch.Replica{ID: "1", Slots: 4, Weight: 1}}})
	v.transports.main.RegisterProtocol("http", canned{})
	benchmark(b, s)
}
