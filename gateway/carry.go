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

// carry sends the request to a replica and the answer back to the client. It does not support
// requests to switch protocols.
//
// It is like httputil.ReverseProxy, but copies less: header values are shared, because nobody
// modifies them.
func (x *exchange) carry() {
	x.informational.w, x.informational.old = &x.writer, !x.in.ProtoAtLeast(1, 1)
	x.attempts.trace.Got1xxResponse = x.informational.pass
	res, err := x.orFallback(x.attempts.RoundTrip(x.outbound()))
	x.arrive()
	x.informational.end()
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

// outbound returns the request for the replica.
func (x *exchange) outbound() *http.Request {
	in := x.in
	out := in.WithContext(httptrace.WithClientTrace(x.ctx, &x.attempts.trace))
	out.Close = false
	u := *in.URL
	u.Scheme, u.Host = x.service.transports.scheme, x.pass.Endpoint.Address
	out.URL = &u
	out.Header = outboundHeader(in, x.trusted())
	if x.reading != nil && out.Header["Accept-Encoding"] != nil {
		out.Header["Accept-Encoding"] = identity // tokens in a compressed answer cannot be counted
	}
	out.Body = nil // so that the transport can repeat it if a connection was just closed
	if x.body != nil {
		x.setBody(out)
	}
	return out
}

// setBody sets the body of a request, and GetBody, with which the transport repeats the request if the
// connection was just closed.
func (x *exchange) setBody(out *http.Request) {
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
		// The client has already sent the body.
		delete(out.Header, "Expect")
	}
}

var errGiven = errors.New("cannot send the body again: a part of it was sent and not kept")

// errNotBegun means that the replica reports that it did not process a request (RFC 9113, 6.8 and
// 8.7). The transport would repeat the request there, but another replica may have a free stream.
var errNotBegun = errors.New("the replica did not process the request")

// Values that never change, shared by all requests.
var (
	noAgent    = []string{""} // prevents the transport's own User-Agent
	teTrailers = []string{"trailers"}
	identity   = []string{"identity"}
	overHTTP   = []string{"http"}
	overHTTPS  = []string{"https"}
)

// outboundHeader returns the client's header without hop-by-hop fields and with X-Forwarded fields.
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
	delete(out, "Http2-Settings") // belongs to an upgrade that is not passed on
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

// trusted reports whether the request comes from a proxy whose X-Forwarded-Proto and -Host count.
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

// copyHeader copies all fields except hop-by-hop fields (RFC 9110, 7.6.1) and those that the
// Connection header lists.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
			"Transfer-Encoding", "Upgrade",
			"Proxy-Connection": // not standardized, but some clients send it
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

// switches reports whether a client requests a WebSocket. The gateway ignores other upgrades, as RFC
// 9110, 7.8 allows: after an upgrade to HTTP/2, requests would bypass the queue.
func switches(r *http.Request) bool {
	return r.Method == http.MethodGet && hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"],
		"websocket")
}

// informational passes on informational responses (1xx) until the final one arrives.
type informational struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	old   bool // HTTP/1.0, which has no such responses
	ended bool
}

func (e *informational) pass(code int, header textproto.MIMEHeader) error {
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

func (e *informational) end() {
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// deliver passes an answer on to the client.
func (x *exchange) deliver(res *http.Response) {
	w := &x.writer
	h := w.Header()
	copyHeader(h, res.Header)
	delete(h, outcomeHeader) // only the gateway may set it
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // prevents the server from guessing one
	}
	dropFramed(res.Trailer)
	announced := len(res.Trailer)
	if announced > 0 {
		h["Trailer"] = []string{strings.Join(slices.Sorted(maps.Keys(res.Trailer)), ", ")}
	}
	w.WriteHeader(res.StatusCode)
	err := x.copyBody(res)
	res.Body.Close() // now the trailer is known
	if err != nil {
		panic(http.ErrAbortHandler) // the client must not take the answer for complete
	}
	dropFramed(res.Trailer)
	if len(res.Trailer) == 0 {
		if x.in.ProtoMajor == 1 && h["Content-Length"] != nil {
			w.FlushError() // do not let the client wait until the exchange is recorded
		}
		return
	}
	w.FlushError() // otherwise a short answer would get a length and no trailer
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for name, values := range res.Trailer {
		h[prefix+name] = values
	}
}

// dropFramed removes fields that are not allowed in a trailer (RFC 9110, 6.5.1), such as those that
// determine the end or the destination of the message.
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

// copyBody copies the body to the client. It flushes each piece of a stream.
func (x *exchange) copyBody(res *http.Response) error {
	w := &x.writer
	// Do not flush the header of an answer without a body: the slot must be freed first.
	stream := res.ContentLength < 0 || isStream(res) && res.ContentLength > 0
	if stream {
		w.FlushError() // send the header now, because the first byte may take long
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
