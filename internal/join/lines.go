package join

import "bytes"

// lines splits a stream of server-sent events (WHATWG HTML, 9.2) into the data of
// each event.
type lines struct {
	line []byte // the received part of the current line
	cr   bool   // the last byte was a carriage return
	data []byte // of the current event
	has  bool   // the event has data
}

func (l *lines) feed(p []byte, event func([]byte)) {
	for len(p) > 0 {
		if l.cr && p[0] == '\n' {
			p = p[1:]
			l.cr = false
			continue
		}
		l.cr = false
		end := bytes.IndexAny(p, "\r\n")
		if end < 0 {
			l.line = append(l.line, p...)
			return
		}
		l.line = append(l.line, p[:end]...)
		l.cr = p[end] == '\r'
		p = p[end+1:]
		l.endLine(event)
	}
}

func (l *lines) endLine(event func([]byte)) {
	line := l.line
	l.line = l.line[:0]
	if len(line) == 0 {
		l.end(event)
		return
	}
	rest, ok := bytes.CutPrefix(line, []byte("data"))
	if !ok || len(rest) > 0 && rest[0] != ':' {
		return
	}
	rest = bytes.TrimPrefix(rest, []byte(":"))
	rest = bytes.TrimPrefix(rest, []byte(" "))
	if l.has {
		l.data = append(l.data, '\n')
	}
	l.data, l.has = append(l.data, rest...), true
}

// end completes an event. At the end of the stream it also completes the last event, unless the
// stream ended within a line.
func (l *lines) end(event func([]byte)) {
	if l.has && len(l.data) > 0 && len(l.line) == 0 {
		event(l.data)
	}
	l.data, l.has = l.data[:0], false
}
