// Package field reads the lines of the heads of HTTP/1 messages: those of replicas'
// answers and those of clients' requests. A line that two readers could understand in
// two ways is refused.
package field

import (
	"bytes"
	"fmt"
	"net/http"
)

// Next splits off a line, without its CR LF. The text must consist of such lines.
func Next(text []byte) (line, rest []byte) {
	end := bytes.IndexByte(text, '\n')
	return text[:end-1], text[end+1:]
}

// Parse splits a line "name: value" and returns the name in its canonical form. A line
// that begins with a space continues the one before in an old way that is not to be
// understood any more (RFC 9112, 5.2).
func Parse(line []byte) (name, value string, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 || !IsToken(line[:colon]) {
		return "", "", fmt.Errorf("a line of its header is %.40q", line)
	}
	text := bytes.Trim(line[colon+1:], " \t")
	if !IsValue(text) {
		return "", "", fmt.Errorf("the header %.40q has a control character", line[:colon])
	}
	return http.CanonicalHeaderKey(string(line[:colon])), string(text), nil
}

// Put adds a value to a header. The slice is shared with who gave it: it is copied before
// another value is added.
func Put(h http.Header, name string, value []string) {
	if before, ok := h[name]; ok {
		value = append(before[:len(before):len(before)], value...)
	}
	h[name] = value
}

// Lines keeps the lines of a connection's last header, as the other side sends nearly the
// same with each message. The values that it puts into headers are shared between them
// and must not be changed in place.
type Lines struct {
	lines []kept
	at    int
}

type kept struct {
	text, name string
	value      []string
}

// Bounds of what is kept: how many lines, and of how many bytes each.
const (
	mostLines   = 24
	longestLine = 256
)

// Begin is called before the first line of a header.
func (l *Lines) Begin() { l.at = 0 }

// Add puts a line into a header.
func (l *Lines) Add(h http.Header, line []byte) error {
	at := l.at
	l.at++
	if at < len(l.lines) && string(line) == l.lines[at].text {
		Put(h, l.lines[at].name, l.lines[at].value)
		return nil
	}
	name, value, err := Parse(line)
	if err != nil {
		return err
	}
	values := []string{value}
	if at < mostLines {
		if at == len(l.lines) {
			l.lines = append(l.lines, kept{})
		}
		l.lines[at] = kept{}
		if len(line) <= longestLine {
			l.lines[at] = kept{string(line), name, values}
		}
	}
	Put(h, name, values)
	return nil
}
