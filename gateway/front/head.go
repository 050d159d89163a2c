package front

import (
	"bytes"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"aliquot.example/gateway/field"
)

// parse parses a head that ends with its empty line into c.request. It returns false if net/http
// must handle the request.
func (c *conn) parse(text []byte) bool {
	if len(text) == 0 || !linesEnd(text) {
		return false
	}
	line, rest := field.Next(text)
	if !c.parseFirst(line) {
		return false
	}
	h := make(http.Header, bytes.Count(rest, []byte{'\n'}))
	c.lines.Begin()
	for len(rest) > 2 {
		line, rest = field.Next(rest)
		if c.lines.Add(h, line) != nil {
			return false
		}
	}
	host, length, plain := framed(h)
	u := c.first.url
	c.request = http.Request{
		Method: c.first.method, URL: &u, RequestURI: c.first.target,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Host: host, RemoteAddr: c.remote, Close: hasToken(h["Connection"], "close"),
		Body: http.NoBody, ContentLength: length,
	}
	return plain
}

// linesEnd reports whether every line ends with CR LF and neither character occurs elsewhere.
func linesEnd(text []byte) bool {
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n')
		if end < 1 || bytes.IndexByte(text[:end], '\r') != end-1 {
			return false
		}
		text = text[end+1:]
	}
	return true
}

// parseFirst parses the request line, which often repeats that of the previous request.
func (c *conn) parseFirst(line []byte) bool {
	if f := &c.first; string(line) == f.text {
		return len(line) > 0
	}
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(rest, []byte(" "))
	if !field.IsToken(method) || !field.IsPlain(target) || target[0] != '/' || string(version) != "HTTP/1.1" ||
		string(method) == http.MethodConnect {
		return false
	}
	name := string(target)
	u, err := url.ParseRequestURI(name)
	if err != nil || u.Host != "" {
		return false
	}
	f := &c.first
	f.text, f.method, f.target, f.url = string(line), string(method), name, *u
	return true
}

// others are the fields of requests that net/http must handle.
var others = []string{"Transfer-Encoding", "Upgrade", "Expect", "Trailer", "Http2-Settings"}

// framed returns the host and the length of the body, and changes the header as net/http does.
func framed(h http.Header) (host string, length int64, plain bool) {
	for _, name := range others {
		if _, ok := h[name]; ok {
			return "", 0, false
		}
	}
	if !isList(h["Connection"]) {
		return "", 0, false
	}
	hosts := h["Host"]
	if len(hosts) != 1 || !isHost(hosts[0]) {
		return "", 0, false
	}
	delete(h, "Host")
	if lengths, ok := h["Content-Length"]; ok {
		if length, plain = lengthOf(lengths); !plain {
			return "", 0, false
		}
	}
	if p := h["Pragma"]; len(p) > 0 && p[0] == "no-cache" {
		if _, ok := h["Cache-Control"]; !ok {
			h["Cache-Control"] = noCache // as net/http does
		}
	}
	return hosts[0], length, true
}

var noCache = []string{"no-cache"}

// lengthOf parses a length: only digits, and few enough that no reader overflows.
func lengthOf(values []string) (int64, bool) {
	if len(values) != 1 || len(values[0]) == 0 || len(values[0]) > 18 {
		return 0, false
	}
	for _, digit := range []byte(values[0]) {
		if digit < '0' || digit > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	return n, err == nil
}

// isHost reports whether a host consists only of characters of names, addresses and ports.
func isHost(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte(".-_:[]", c) >= 0:
		default:
			return false
		}
	}
	return len(s) > 0
}

// isList reports whether values are lists of tokens. Of other values, some readers would recognise
// a part, such as "close".
func isList(values []string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.Trim(part, " \t"); part != "" && !field.IsToken(part) {
				return false
			}
		}
	}
	return true
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}
