package front

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"aliquot.example/gateway/field"
)

// answer is the http.ResponseWriter of one request.
type answer struct {
	conn    *conn
	request *http.Request
	body    *body // the request's body; nil if it has none
	header  http.Header

	status  int // 0 until WriteHeader
	length  int64
	written int64
	framed  bool   // the head is complete
	chunked bool   // because the length is unknown
	bodied  bool   // the status allows a body
	pending []byte // start of a body whose length may still become known
	names   []string
	out     *output // bytes to send; nil if there are none

	duplex bool // the request's body may be read while the answer is written
	close  bool // the connection ends after the answer
	timed  bool // a write deadline was set
	failed error
}

// output is a reusable buffer of bytes to send.
type output struct{ text []byte }

var outputs = sync.Pool{New: func() any { return &output{make([]byte, 0, 4<<10)} }}

// Bounds in bytes: on a body held back because its length may become known, on output before it is
// written to the connection, and on a buffer that is kept for reuse.
const (
	maxPending = 2 << 10
	maxOutput  = 16 << 10
	maxKept    = 64 << 10
)

// Header implements http.ResponseWriter. Fields set after WriteHeader go into the trailer if they
// were announced or have http.TrailerPrefix.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader writes the head; if the length of the body is still unknown, frame completes it. It
// sends informational heads at once.
func (a *answer) WriteHeader(status int) {
	switch {
	case status < 100 || status > 999:
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	case a.status != 0 || a.failed != nil:
		return
	case status < 200 && status != http.StatusSwitchingProtocols:
		a.writeHead(status, true)
		a.add("\r\n")
		a.send()
		return
	}
	a.status = status
	a.bodied = status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
	a.declare()
	a.settle()
	a.writeHead(status, false)
	if !a.bodied || a.length >= 0 {
		a.frame()
	}
}

// declare reads the length of the body and the names of its trailer fields from the header.
func (a *answer) declare() {
	if values := a.header["Content-Length"]; len(values) > 0 {
		if n, ok := lengthOf(values[:1]); ok {
			a.length = n
		}
	}
	for _, v := range a.header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(strings.Trim(name, " \t")); mayTrail(name) {
				a.names = append(a.names, name)
			}
		}
	}
}

// settle decides whether the connection stays open after the answer.
func (a *answer) settle() {
	a.close = a.close || a.request.Close || a.conn.server.closing.Load() ||
		slices.Contains(a.header["Connection"], "close")
	if a.body != nil && !a.duplex && !a.body.skip() {
		a.close = true
	}
}

// writeHead writes the status line and the header.
func (a *answer) writeHead(status int, informational bool) {
	text := http.StatusText(status)
	if text == "" {
		text = "status code " + strconv.Itoa(status)
	}
	a.add("HTTP/1.1 ")
	a.number(int64(status), 10)
	a.add(" ", text, "\r\n")
	for name, values := range a.header {
		switch name {
		case "Content-Length", "Transfer-Encoding":
			continue
		case "Connection":
			if a.close {
				continue
			}
		case "Content-Type":
			if status == http.StatusNotModified {
				continue
			}
		}
		if !strings.HasPrefix(name, http.TrailerPrefix) {
			a.fields(name, values)
		}
	}
	if informational {
		return
	}
	if _, ok := a.header["Date"]; !ok {
		a.add("Date: ", date(), "\r\n")
	}
	if a.close {
		a.add("Connection: close\r\n")
	}
}

func (a *answer) fields(name string, values []string) {
	if !field.IsToken(name) {
		return
	}
	for _, v := range values {
		if !field.IsValue(v) {
			v = breaks.Replace(v)
		}
		a.add(name, ": ", strings.Trim(v, " \t\r\n"), "\r\n")
	}
}

// breaks replaces the characters that would end a header line.
var breaks = strings.NewReplacer("\n", " ", "\r", " ")

func (a *answer) add(texts ...string) {
	o := a.output()
	for _, t := range texts {
		o.text = append(o.text, t...)
	}
}

func (a *answer) number(n int64, base int) {
	o := a.output()
	o.text = strconv.AppendInt(o.text, n, base)
}

func (a *answer) output() *output {
	if a.out == nil {
		a.out = outputs.Get().(*output)
		a.out.text = a.out.text[:0]
	}
	return a.out
}

// frame completes the head with the fields that say where the body ends.
func (a *answer) frame() {
	a.framed = true
	switch {
	case !a.bodied:
	case a.length >= 0:
		a.add("Content-Length: ")
		a.number(a.length, 10)
		a.add("\r\n")
	case a.request.Method != http.MethodHead:
		a.chunked = true
		a.add("Transfer-Encoding: chunked\r\n")
	}
	a.add("\r\n")
	if p := a.pending; len(p) > 0 {
		a.pending = nil
		a.piece(p)
	}
}

// piece appends a part of the body to the output.
func (a *answer) piece(p []byte) {
	o := a.output()
	if a.chunked {
		o.text = append(strconv.AppendInt(o.text, int64(len(p)), 16), "\r\n"...)
	}
	o.text = append(o.text, p...)
	if a.chunked {
		o.text = append(o.text, "\r\n"...)
	}
}

// Write writes a part of the body. It is sent once enough has accumulated.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	switch {
	case a.failed != nil:
		return 0, a.failed
	case len(p) == 0:
		return 0, nil
	case !a.bodied:
		return 0, http.ErrBodyNotAllowed
	case a.length >= 0 && a.written+int64(len(p)) > a.length:
		return 0, http.ErrContentLength
	}
	a.written += int64(len(p))
	switch {
	case a.request.Method == http.MethodHead:
		return len(p), nil
	case !a.framed && len(a.pending)+len(p) <= maxPending:
		a.pending = append(a.pending, p...)
		return len(p), nil
	case !a.framed:
		a.frame()
	}
	a.piece(p)
	if len(a.out.text) >= maxOutput {
		if err := a.send(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// FlushError sends everything written so far.
func (a *answer) FlushError() error {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if !a.framed {
		a.frame()
	}
	return a.send()
}

// Flush implements http.Flusher.
func (a *answer) Flush() { a.FlushError() }

// send writes the output to the connection.
func (a *answer) send() error {
	o := a.out
	if o == nil || a.failed != nil {
		return a.failed
	}
	if len(o.text) > 0 {
		if _, err := a.conn.nc.Write(o.text); err != nil {
			a.failed = err
			a.conn.left()
		}
	}
	a.out = nil
	if cap(o.text) <= maxKept {
		outputs.Put(o)
	}
	return a.failed
}

var errShort = errors.New("the answer is shorter than announced")

// finish completes the answer. whole is false if the request's body was not read to its end; the
// connection then closes.
func (a *answer) finish(whole bool) {
	if a.status == 0 {
		a.close = a.close || !whole
		a.WriteHeader(http.StatusOK)
	}
	if !a.framed {
		trailed := len(a.names) > 0 || slices.ContainsFunc(a.trailerNames(), mayTrail)
		switch n := int64(len(a.pending)); {
		case trailed:
		case a.request.Method != http.MethodHead:
			a.length = n
		case a.written > 0:
			a.length = a.written
		}
		a.frame()
	}
	switch {
	case a.chunked:
		a.add("0\r\n")
		a.trail()
		a.add("\r\n")
	case a.bodied && a.length >= 0 && a.written != a.length && a.request.Method != http.MethodHead:
		a.send()
		a.failed = errShort
		return
	}
	a.send()
	if a.timed {
		a.conn.nc.SetWriteDeadline(time.Time{})
	}
}

// trailerNames returns the names of the fields that have http.TrailerPrefix.
func (a *answer) trailerNames() []string {
	var names []string
	for name := range a.header {
		if late, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			names = append(names, late)
		}
	}
	return names
}

// trail writes the trailer.
func (a *answer) trail() {
	for _, name := range a.names {
		a.fields(name, a.header[name])
	}
	for _, name := range a.trailerNames() {
		if mayTrail(name) {
			a.fields(name, a.header[http.TrailerPrefix+name])
		}
	}
}

func mayTrail(name string) bool {
	switch name {
	case "Transfer-Encoding", "Content-Length", "Trailer":
		return false
	}
	return field.IsToken(name)
}

// abort sends what is complete after the handler panicked. The end of the body is missing, so the
// client can tell that the answer is incomplete.
func (a *answer) abort() {
	if a.framed {
		a.send()
	}
}

// SetReadDeadline serves http.ResponseController, like SetWriteDeadline and EnableFullDuplex.
func (a *answer) SetReadDeadline(t time.Time) error { return a.conn.nc.SetReadDeadline(t) }

// SetWriteDeadline sets the connection's write deadline.
func (a *answer) SetWriteDeadline(t time.Time) error {
	a.timed = true
	return a.conn.nc.SetWriteDeadline(t)
}

// EnableFullDuplex keeps the request's body readable after the answer has begun.
func (a *answer) EnableFullDuplex() error {
	a.duplex = true
	return nil
}

// today caches the Date field, which changes once per second.
type today struct {
	second int64
	text   string
}

var now atomic.Pointer[today]

func date() string {
	t := time.Now()
	if d := now.Load(); d != nil && d.second == t.Unix() {
		return d.text
	}
	d := &today{t.Unix(), t.UTC().Format(http.TimeFormat)}
	now.Store(d)
	return d.text
}
