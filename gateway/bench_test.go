package gateway

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
)

// canned answers without a network, so that what is measured is the proxy's own
// work.
type canned struct{}

func (canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"text/plain"}}, Body: http.NoBody, Request: r}, nil
}

type discard struct{ h http.Header }

func (*discard) SetWriteDeadline(time.Time) error { return nil }
func (*discard) FlushError() error                { return nil }

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

// chat is an answer of 100 events.
type chat struct{}

func (chat) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
	}
	body := &eventReader{left: 100}
	return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body, Request: r}, nil
}

// eventReader gives one event at a time, as a replica does.
type eventReader struct{ left int }

const benchEvent = "data: {\"id\":\"chatcmpl-5f6a4f0c8e5d4a0d9a3e\",\"object\":\"chat.completion.chunk\",\"model\":\"Qwen/Qwen3-4B\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"},\"finish_reason\":null}]}\n\n"

func (e *eventReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	e.left--
	return copy(p, benchEvent), nil
}

func (e *eventReader) Close() error { return nil }

// What counting in tokens costs beside slots, without an objective and with one: a prompt
// of 16 KiB, 64 replicas, with an answer of 100 events and with one that is empty.
func BenchmarkLanguage(b *testing.B) {
	body := `{"messages":[{"role":"user","content":"` + strings.Repeat("The quick brown fox jumps over the lazy dog. ", 16384/45) + `"}],"stream":true}`
	const tokens = "policy = \"tokens\"\nengine {\n metrics = \"off\"\n}\n"
	const objective = "slo {\n ttft = \"2s\"\n tpot = \"100ms\"\n}\n"
	for name, policy := range map[string]string{"slots": "", "tokens": tokens, "objective": tokens + objective} {
		for answer, replica := range map[string]http.RoundTripper{"empty": canned{}, "events": chat{}} {
			b.Run(name+"/"+answer, func(b *testing.B) {
				c, err := config.Parse([]byte("access_log = \"off\"\nservice \"m\" {\n"+policy+"  replica {\n    address = \"127.0.0.1:1\"\n  }\n}\n"), "bench.hcl")
				if err != nil {
					b.Fatal(err)
				}
				s, err := New(c, Options{Source: func(config.Service) (Source, error) { return nil, nil }})
				if err != nil {
					b.Fatal(err)
				}
				v := s.plan.Load().services[0]
				var fleet []line.Replica
				for i := range 64 {
					address := "127.0.0." + string(rune('1'+i%9)) + ":" + string(rune('1'+i/9))
					fleet = append(fleet, line.Replica{Address: address, Replica: dispatch.Replica{ID: address, Class: "h100", Slots: 64, Weight: 1, KV: 450_000}})
				}
				v.line.Set(fleet)
				v.transports.main.RegisterProtocol("http", replica)
				b.ReportAllocs()
				for b.Loop() {
					r := httptest.NewRequest(http.MethodPost, "http://x/v1/chat/completions", strings.NewReader(body))
					s.ServeHTTP(&discard{http.Header{}}, r)
				}
			})
		}
	}
}
