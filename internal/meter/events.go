package meter

// events splits a stream of server-sent events (WHATWG HTML, 9.2) into events and their data.
type events struct {
	line   lineState
	field  int  // how much of "data" the line has matched
	cr     bool // the last byte was a carriage return: a line feed belongs to it
	data   bool // the event has data
	isJSON bool
	head   [len(done)]byte // start of data that is not JSON
	length int             // of the data
}

type lineState uint8

const (
	inField lineState = iota // in the field's name
	afterColon
	inData
	inOther // a comment or another field
)

const (
	dataField = "data"
	done      = "[DONE]"
)

func (e *events) feed(p []byte, m *Meter) {
	for i := 0; i < len(p); {
		c := p[i]
		switch {
		case c == '\n' && e.cr:
			e.cr = false
			i++
			continue
		case c == '\n' || c == '\r':
			e.cr = c == '\r'
			e.endLine(m)
			i++
			continue
		}
		e.cr = false
		switch e.line {
		case inField:
			e.inField(c)
			i++
		case afterColon:
			e.begin(m)
			if e.line = inData; c == ' ' {
				i++
			}
		default:
			end := i
			for end < len(p) && p[end] != '\n' && p[end] != '\r' {
				end++
			}
			if e.line == inData {
				e.take(p[i:end], m)
			}
			i = end
		}
	}
}

func (e *events) inField(c byte) {
	switch {
	case e.field < len(dataField) && c == dataField[e.field]:
		e.field++
	case e.field == len(dataField) && c == ':':
		e.line = afterColon
	default:
		e.line = inOther
	}
}

// begin starts a line of data.
func (e *events) begin(m *Meter) {
	if !e.data {
		e.data, e.isJSON, e.length = true, false, 0
		m.doc.reset()
	}
}

func (e *events) take(p []byte, m *Meter) {
	if e.length == 0 && len(p) > 0 {
		e.isJSON = p[0] == '{'
	}
	if e.isJSON {
		m.doc.feed(p)
	} else if e.length < len(e.head) {
		copy(e.head[e.length:], p)
	}
	e.length += len(p)
}

func (e *events) endLine(m *Meter) {
	empty := e.line == inField && e.field == 0
	if e.line == afterColon {
		e.begin(m)
	}
	e.line, e.field = inField, 0
	if empty {
		e.end(m)
	}
}

// end ends an event.
func (e *events) end(m *Meter) {
	if !e.data {
		return
	}
	e.data = false
	if e.length == 0 || (!e.isJSON && e.length == len(done) && string(e.head[:]) == done) {
		return
	}
	m.event(e.isJSON)
}
