package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"

	"aliquot.example/gateway/field"
)

// ErrMalformed means that an answer is not unambiguous HTTP/1.1.
var ErrMalformed = errors.New("the replica's answer is malformed")

var errTooLarge = malformed("its header is too large")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// answer is a response and its body in one allocation.
type answer struct {
	http.Response
	body body
}

// receive reads the header of the final answer and forwards informational ones.
func (c *conn) receive(req *http.Request) (*http.Response, error) {
	left := c.transport.MaxHeaderBytes
	for {
		text, err := c.head(left)
		if err != nil {
			return nil, err
		}
		left -= len(text)
		a := &answer{}
		if err := parseHead(a, text, req.Method, &c.lines); err != nil {
			return nil, err
		}
		c.r += len(text)
		if a.StatusCode < 200 && a.StatusCode != http.StatusSwitchingProtocols {
			if err := c.informed(a); err != nil {
				return nil, err
			}
			continue
		}
		c.arrived()
		if c.sending != nil {
			c.sending.refuse()
		}
		a.Request = req
		return c.begun(a), nil
	}
}

// informed forwards an informational answer.
func (c *conn) informed(a *answer) error {
	if a.StatusCode == http.StatusContinue && c.sending != nil {
		c.sending.signal(true)
	}
	if a.body.kind != none || a.body.unclear {
		return malformed("it has status %d and a body", a.StatusCode)
	}
	if trace := httptrace.ContextClientTrace(c.ctx); trace != nil && trace.Got1xxResponse != nil {
		return trace.Got1xxResponse(a.StatusCode, textproto.MIMEHeader(a.Header))
	}
	return nil
}

// begun completes the response and decides whether the connection can be reused.
func (c *conn) begun(a *answer) *http.Response {
	if a.Close || a.body.kind == toClose || a.body.unclear || a.StatusCode == http.StatusSwitchingProtocols {
		c.reusable = false
	}
	a.body.conn, a.body.response = c, &a.Response
	a.Body = &a.body
	if a.body.kind == none {
		a.Body = http.NoBody
		c.done()
	}
	return &a.Response
}

// head receives a header up to and including its empty line.
func (c *conn) head(limit int) ([]byte, error) {
	for line, at := 0, 0; ; {
		for {
			end := bytes.IndexByte(c.buf[c.r+at:c.w], '\n')
			if end < 0 {
				break
			}
			at += end + 1
			if at-line < 2 || c.buf[c.r+at-2] != '\r' {
				return nil, malformed("a line of its header does not end with CR LF")
			}
			if at-line == 2 {
				if at > limit {
					return nil, errTooLarge
				}
				return c.buf[c.r : c.r+at], nil
			}
			line = at
		}
		at = c.w - c.r
		if at > limit {
			return nil, errTooLarge
		}
		if err := c.fill(limit + 2*bufferSize); err != nil {
			if err == io.EOF && at == 0 && !c.answerBegun {
				return nil, errClosed
			}
			return nil, unexpected(err)
		}
	}
}

// parseHead parses a header that ends with its empty line.
func parseHead(a *answer, text []byte, method string, lines *lines) error {
	first, rest := field.Next(text)
	if err := parseStatus(a, first, lines); err != nil {
		return err
	}
	lines.Begin()
	a.Header = make(http.Header, bytes.Count(rest, []byte{'\n'}))
	for len(rest) > 2 {
		var line []byte
		line, rest = field.Next(rest)
		if err := lines.Add(a.Header, line); err != nil {
			return malformed("%v", err)
		}
	}
	return a.frame(method)
}

func parseStatus(a *answer, line []byte, lines *lines) error {
	switch {
	case bytes.HasPrefix(line, []byte("HTTP/1.1 ")):
		a.Proto, a.ProtoMajor, a.ProtoMinor = "HTTP/1.1", 1, 1
	case bytes.HasPrefix(line, []byte("HTTP/1.0 ")):
		a.Proto, a.ProtoMajor, a.ProtoMinor = "HTTP/1.0", 1, 0
	default:
		return malformed("it begins with %.20q", line)
	}
	code := line[len("HTTP/1.1 "):]
	if len(code) < 3 || len(code) > 3 && code[3] != ' ' || !field.IsValue(code) {
		return malformed("it begins with %.20q", line)
	}
	for _, digit := range code[:3] {
		if digit < '0' || digit > '9' {
			return malformed("it begins with %.20q", line)
		}
		a.StatusCode = 10*a.StatusCode + int(digit-'0')
	}
	if a.StatusCode < 100 {
		return malformed("its status is %.3s", code)
	}
	a.Status = lines.statusOf(code)
	return nil
}

// frame determines where the body ends (RFC 9112, 6.3).
func (a *answer) frame(method string) error {
	length, chunked, err := a.length()
	if err != nil {
		return err
	}
	a.Close = a.ProtoMinor == 0 || hasToken(a.Header["Connection"], "close")
	a.ContentLength = length
	if chunked {
		delete(a.Header, "Transfer-Encoding")
		a.TransferEncoding = chunkedCoding
		if err := a.announce(); err != nil {
			return err
		}
	}
	switch {
	case method == http.MethodHead:
		return nil
	case a.StatusCode < 200, a.StatusCode == http.StatusNoContent, a.StatusCode == http.StatusNotModified:
		// If a replica sends a body anyway, that body would be read as the next answer.
		a.body.unclear = a.StatusCode != http.StatusNotModified && (chunked || length > 0)
		a.ContentLength = 0
	case chunked:
		a.body.kind = inChunks
	case length > 0:
		a.body.kind, a.body.left = byLength, length
	case length < 0:
		a.body.kind, a.Close = toClose, true
	}
	return nil
}

// length returns the length of the body, or -1 if the header does not give it.
func (a *answer) length() (length int64, chunked bool, err error) {
	coding, chunked := a.Header["Transfer-Encoding"]
	lengths, counted := a.Header["Content-Length"]
	switch {
	case chunked && counted:
		return 0, false, malformed("it has both Transfer-Encoding and Content-Length")
	case chunked && (len(coding) != 1 || !strings.EqualFold(coding[0], "chunked") || a.ProtoMinor == 0):
		return 0, false, malformed("its Transfer-Encoding is %.40q", coding)
	case counted && len(lengths) != 1:
		return 0, false, malformed("it has %d Content-Length headers", len(lengths))
	case counted:
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		if err != nil || lengths[0][0] == '+' {
			return 0, false, malformed("its Content-Length is %.40q", lengths[0])
		}
		return int64(n), false, nil
	}
	return -1, chunked, nil
}

var chunkedCoding = []string{"chunked"}

// announce moves the field names of the Trailer header into a.Trailer.
func (a *answer) announce() error {
	named, ok := a.Header["Trailer"]
	if !ok {
		return nil
	}
	delete(a.Header, "Trailer")
	for _, list := range named {
		for name := range strings.SplitSeq(list, ",") {
			if name = http.CanonicalHeaderKey(textproto.TrimString(name)); name == "" {
				continue
			}
			if framing[name] {
				return malformed("its Trailer header names %.40q, which cannot be in a trailer", name)
			}
			if a.Trailer == nil {
				a.Trailer = http.Header{}
			}
			a.Trailer[name] = nil
		}
	}
	return nil
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

// lines keeps the header lines and the status of a replica's last answer, for reuse.
type lines struct {
	field.Lines
	status string
}

func (l *lines) statusOf(text []byte) string {
	if string(text) != l.status {
		l.status = string(text)
	}
	return l.status
}

// merge adds the fields of a received trailer.
func merge(to *http.Header, from http.Header) {
	if *to == nil {
		*to = from
		return
	}
	maps.Copy(*to, from)
}
