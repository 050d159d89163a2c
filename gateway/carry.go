package gateway

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
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
	x.early.w = &x.writer
	x.trace.Got1xxResponse = x.early.pass
	res, err := (*tries)(x).RoundTrip(x.outbound())
	x.early.end()
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols {
		res.Body.Close()
		err = errSwitched
	}
	if err != nil {
		x.failed(&x.writer, x.in, err)
		return
	}
	x.answered(res)
	x.deliver(res)
}

// outbound is the request as a replica gets it.
func (x *exchange) outbound() *http.Request {
	in := x.in
	out := in.WithContext(httptrace.WithClientTrace(in.Context(), &x.trace))
	out.Close = false
	u := *in.URL
	u.Scheme, u.Host = x.service.transports.scheme, x.pass.Endpoint.Address
	out.URL = &u
	out.Header = outboundHeader(in)
	out.Body = nil // lets the transport repeat it on a connection that just closed
	if x.body != nil {
		x.embody(out)
	}
	return out
}

// embody gives a request its body, which the transport may ask for again where the
// connection that it took was closed meanwhile.
func (x *exchange) embody(out *http.Request) {
	out.Body = x.body.Open()
	out.GetBody = func() (io.ReadCloser, error) {
		if again := x.body.Open(); again != nil {
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

// Values that never change, shared by all requests.
var (
	noAgent    = []string{""} // keeps the transport from naming itself
	teTrailers = []string{"trailers"}
	overHTTP   = []string{"http"}
	overHTTPS  = []string{"https"}
)

// outboundHeader is the client's header without what concerns only its connection
// and with whom the request was forwarded for.
func outboundHeader(in *http.Request) http.Header {
	out := make(http.Header, len(in.Header)+4)
	copyHeader(out, in.Header)
	if hasToken(in.Header["Te"], "trailers") {
		out["Te"] = teTrailers
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = noAgent
	}
	delete(out, "Forwarded")
	values := make([]string, 2)
	values[0] = in.Host
	out["X-Forwarded-Host"] = values[:1:1]
	out["X-Forwarded-Proto"] = overHTTP
	if in.TLS != nil {
		out["X-Forwarded-Proto"] = overHTTPS
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

// copyHeader copies what does not concern one connection only (RFC 9110, 7.6.1),
// by definition or because the Connection header says so.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
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

// switches tells whether a client asks to switch protocols, as for a WebSocket.
func switches(h http.Header) bool {
	return len(h["Upgrade"]) > 0 && hasToken(h["Connection"], "upgrade")
}

// early passes on informational answers until the final one is there.
type early struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	ended bool
}

func (e *early) pass(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return nil
	}
	h := e.w.Header()
	kept := maps.Clone(h)
	maps.Copy(h, header)
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
	if len(res.Trailer) == 0 {
		if x.in.ProtoMajor == 1 && h["Content-Length"] != nil {
			w.finish()
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

// copyBody passes the body on, at once where it is a stream.
func (x *exchange) copyBody(res *http.Response) error {
	w := &x.writer
	kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	stream := res.ContentLength < 0 || strings.EqualFold(textproto.TrimString(kind), "text/event-stream")
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
