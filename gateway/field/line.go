// Package field parses header lines of HTTP/1 messages, both of replicas' answers and of clients'
// requests. It refuses a line that two parsers could understand differently.
package field

import (
	"bytes"
	"fmt"
	"net/http"
)

// Next splits off the first line, without its CR LF. Every line of text must end in CR LF.
func Next(text []byte) (line, rest []byte) {
	end := bytes.IndexByte(text, '\n')
	return text[:end-1], text[end+1:]
}

// Parse splits a line "name: value", and returns the name in its canonical form. It refuses a line
// that begins with a space, the obsolete continuation of the previous line (RFC 9112, 5.2).
func Parse(line []byte) (name, value string, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 || !IsToken(line[:colon]) {
		return "", "", fmt.Errorf("invalid header line %.40q", line)
	}
	text := bytes.Trim(line[colon+1:], " \t")
	if !IsValue(text) {
		return "", "", fmt.Errorf("the header %.40q has a control character", line[:colon])
	}
	return http.CanonicalHeaderKey(string(line[:colon])), string(text), nil
}

// Put adds a value to a header. The header shares the slice with the caller, and copies it before
// it adds another value.
func Put(h http.Header, name string, value []string) {
	if before, ok := h[name]; ok {
		value = append(before[:len(before):len(before)], value...)
	}
	h[name] = value
}

// Lines caches the lines of a connection's last header, because the other side sends nearly the
// same header with each message. Headers share the cached values, so nobody may modify them.
type Lines struct {
	lines []kept
	at    int
}

type kept struct {
	text, name string
	value      []string
}

// The largest number of cached lines, and the largest size of each in bytes.
const (
	maxLines = 24
	maxLine  = 256
)

// Begin starts a header. Call it before the first Add.
func (l *Lines) Begin() { l.at = 0 }

// Add adds a line to a header.
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
	if at < maxLines {
		if at == len(l.lines) {
			l.lines = append(l.lines, kept{})
		}
		l.lines[at] = kept{}
		if len(line) <= maxLine {
			l.lines[at] = kept{string(line), name, values}
		}
	}
	Put(h, name, values)
	return nil
}
