package gateway

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
)

var errSwitched = errors.New("the replica switched protocols without being asked to")

// carry takes the request to a replica and the answer back. Requests to switch
// protocols are not for it.
//
// It does what httputil.ReverseProxy does with less copying: values of headers are
// shared, since nobody changes them.
func (x *exchange) carry() {
	x.early.w, x.early.old = &x.writer, !x.in.ProtoAtLeast(1, 1)
	x.attempts.trace.Got1xxResponse = x.early.pass
	res, err := x.orFallback(x.attempts.RoundTrip(x.outbound()))
	x.arrive()
	x.early.end()
	if err == nil && res.StatusCode < http.StatusOK {
		res.Body.Close()
		err = errSwitched
		if res.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("the replica answered with status %03d", res.StatusCode)
		}
	}
	if err != nil {
		x.failed(&x.writer, x.in, err)
		return
	}
	x.answered(res)
	if x.joined != nil {
		if res, err = x.join(res); err != nil {
			x.failed(&x.writer, x.in, err)
			return
		}
	}
	x.deliver(res)
}

// outbound is the request as a replica gets it.
func (x *exchange) outbound() *http.Request {
	in := x.in
	out := in.WithContext(httptrace.WithClientTrace(x.ctx, &x.attempts.trace))
	out.Close = false
	u := *in.URL
	u.Scheme, u.Host = x.service.transports.scheme, x.pass.Endpoint.Address
	out.URL = &u
	out.Header = outboundHeader(in, x.trusted())
	if x.reading != nil && out.Header["Accept-Encoding"] != nil {
		out.Header["Accept-Encoding"] = identity // what is compressed cannot be counted
	}
	out.Body = nil // lets the transport repeat it on a connection that just closed
	if x.body != nil {
		x.embody(out)
	}
	return out
}

// embody gives a request its body, which the transport may ask for again where the
// connection that it took was closed meanwhile.
func (x *exchange) embody(out *http.Request) {
	if out.ContentLength >= 0 {
		out.ContentLength += x.edits.grows()
	}
	out.Body = x.open()
	if ways := x.service.transports; ways.scheme == "https" || ways.to(x.grpc, x.upgrade) == ways.h2c {
		x.attempts.watch()
	}
	out.GetBody = func() (io.ReadCloser, error) {
		if x.attempts.sent.Load() && x.service.config.Upstream.Retries > 0 {
			return nil, errNotBegun
		}
		if again := x.open(); again != nil {
			return again, nil
		}
		return nil, errGiven
	}
	if x.body.Whole() {
		// The client was asked for it already.
		delete(out.Header, "Expect")
	}
}

var errGiven = errors.New("a part of the body that is not kept was sent before")

// errNotBegun is the error of a request that its replica says it did not begin (RFC
// 9113, 6.8 and 8.7). The transport would repeat it there; another may have room.
var errNotBegun = errors.New("the replica did not begin with the request")

// Values that never change, shared by all requests.
var (
	noAgent    = []string{""} // keeps the transport from naming itself
	teTrailers = []string{"trailers"}
	identity   = []string{"identity"}
	overHTTP   = []string{"http"}
	overHTTPS  = []string{"https"}
)

// outboundHeader is the client's header without what concerns only its connection
// and with whom the request was forwarded for.
func outboundHeader(in *http.Request, trusted bool) http.Header {
	out := make(http.Header, len(in.Header)+4)
	copyHeader(out, in.Header)
	if hasToken(in.Header["Te"], "trailers") {
		out["Te"] = teTrailers
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = noAgent
	}
	delete(out, "Forwarded")
	delete(out, "Http2-Settings") // of an upgrade that is not passed on
	values := make([]string, 2)
	values[0] = in.Host
	if !trusted || len(out["X-Forwarded-Host"]) == 0 {
		out["X-Forwarded-Host"] = values[:1:1]
	}
	if !trusted || len(out["X-Forwarded-Proto"]) == 0 {
		out["X-Forwarded-Proto"] = overHTTP
		if in.TLS != nil {
			out["X-Forwarded-Proto"] = overHTTPS
		}
	}
	delete(out, "X-Forwarded-For")
	if client, _, err := net.SplitHostPort(in.RemoteAddr); err == nil {
		if prior := in.Header["X-Forwarded-For"]; len(prior) > 0 {
			client = strings.Join(prior, ", ") + ", " + client
		}
		values[1] = client
		out["X-Forwarded-For"] = values[1:]
	}
	return out
}

// trusted reports whether the request comes from a proxy whose word on the client's
// scheme and host counts.
func (x *exchange) trusted() bool {
	proxies := x.server.config.Listen.Trusted
	if len(proxies) == 0 {
		return false
	}
	from, err := netip.ParseAddrPort(x.in.RemoteAddr)
	return err == nil && slices.ContainsFunc(proxies, func(p netip.Prefix) bool {
		return p.Contains(from.Addr().Unmap())
	})
}

// copyHeader copies what does not concern one connection only (RFC 9110, 7.6.1),
// by definition or because the Connection header says so.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
			"Transfer-Encoding", "Upgrade",
			"Proxy-Connection": // not defined, but some clients send it
		default:
			to[name] = values
		}
	}
	for _, v := range from["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(textproto.TrimString(name)); name != "Connection" {
				delete(to, name)
			}
		}
	}
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(part), token) {
				return true
			}
		}
	}
	return false
}

// switches reports whether a client asks for a WebSocket. Other upgrades are not
// passed on, and the request is answered as if they had not been asked for, as RFC
// 9110, 7.8 allows: a replica that switched to HTTP/2 would get a tunnel in which
// requests pass the queue.
func switches(r *http.Request) bool {
	return r.Method == http.MethodGet && hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"],
		"websocket")
}

// early passes on informational answers until the final one is there.
type early struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	old   bool // HTTP/1.0, which knows no such answers
	ended bool
}

func (e *early) pass(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended || e.old {
		return nil
	}
	h := e.w.Header()
	kept := maps.Clone(h)
	copyHeader(h, http.Header(header))
	e.w.WriteHeader(code)
	clear(h)
	maps.Copy(h, kept)
	return nil
}

func (e *early) end() {
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// deliver passes an answer on to the client.
func (x *exchange) deliver(res *http.Response) {
	w := &x.writer
	h := w.Header()
	copyHeader(h, res.Header)
	delete(h, outcomeHeader) // the gateway's own word
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // keeps the server from guessing one
	}
	dropFramed(res.Trailer)
	announced := len(res.Trailer)
	if announced > 0 {
		h["Trailer"] = []string{strings.Join(slices.Sorted(maps.Keys(res.Trailer)), ", ")}
	}
	w.WriteHeader(res.StatusCode)
	err := x.copyBody(res)
	res.Body.Close() // afterwards the trailer is known
	if err != nil {
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
	dropFramed(res.Trailer)
	if len(res.Trailer) == 0 {
		if x.in.ProtoMajor == 1 && h["Content-Length"] != nil {
			w.FlushError() // the client need not wait until the exchange is recorded
		}
		return
	}
	w.FlushError() // else a short answer would get a length, and no trailer
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for name, values := range res.Trailer {
		h[prefix+name] = values
	}
}

// dropFramed removes from a trailer what must not stand there (RFC 9110, 6.5.1), as
// it would change where the message ends or who it is for.
func dropFramed(trailer http.Header) {
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer", "Connection", "Upgrade", "Host",
		"Content-Encoding", "Content-Type", outcomeHeader} {
		delete(trailer, name)
	}
}

// isStream reports whether an answer is a stream of events.
func isStream(res *http.Response) bool {
	kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	return strings.EqualFold(textproto.TrimString(kind), "text/event-stream")
}

// copyBody passes the body on, at once where it is a stream.
func (x *exchange) copyBody(res *http.Response) error {
	w := &x.writer
	// An answer without a body is at its end with its header, which must free the slot first.
	stream := res.ContentLength < 0 || isStream(res) && res.ContentLength > 0
	if stream {
		w.FlushError() // the header, as the first byte may be long in coming
	}
	buf := x.server.buffers.Get()
	defer x.server.buffers.Put(buf)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, failed := w.Write(buf[:n]); failed != nil {
				return failed
			}
			if stream {
				w.FlushError()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
