package match

import "encoding/json"

// scanner finds the string value of the key "model" at the top level of a JSON
// object, reading the text piece by piece and keeping nothing but that value. It
// does not validate: of text that is no JSON object it may say anything but must
// end. Of several such keys the first counts.
type scanner struct {
	depth    int
	state    scanState
	inString bool
	escaped  bool
	isKey    bool // the running string is a key at the top level
	keep     bool // the running string is kept in raw
	raw      []byte
	model    string
	done     bool // nothing further can be found
}

type scanState int

const (
	beforeObject scanState = iota
	beforeKey
	beforeColon
	beforeValue
	modelColon
	modelValue
	afterValue
)

// longestModel bounds the name of a model, in bytes of JSON text.
const longestModel = 512

// feed reads more text.
func (s *scanner) feed(text []byte) {
	for _, c := range text {
		if s.done {
			return
		}
		if s.inString {
			s.string(c)
		} else {
			s.structure(c)
		}
	}
}

func (s *scanner) string(c byte) {
	if s.keep {
		if len(s.raw) >= longestModel {
			s.keep, s.raw = false, s.raw[:0]
		} else {
			s.raw = append(s.raw, c)
		}
	}
	switch {
	case s.escaped:
		s.escaped = false
	case c == '\\':
		s.escaped = true
	case c == '"':
		s.inString = false
		s.ended()
	}
}

// ended acts on a string that is complete.
func (s *scanner) ended() {
	if s.depth != 1 {
		return
	}
	text := ""
	if s.keep && json.Unmarshal(s.raw, &text) != nil {
		text = ""
	}
	switch {
	case s.isKey && text == "model":
		s.state = modelColon
	case s.isKey:
		s.state = beforeColon
	case s.state == modelValue:
		s.model, s.done = text, true
	default:
		s.state = afterValue
	}
}

func (s *scanner) structure(c byte) {
	switch c {
	case ' ', '\t', '\n', '\r':
		return
	case '"':
		s.inString = true
		s.isKey = s.depth == 1 && s.state == beforeKey
		s.keep = s.isKey || (s.depth == 1 && s.state == modelValue)
		if s.depth == 0 {
			s.done = true
		}
		if s.keep {
			s.raw = append(s.raw[:0], c)
		}
		return
	case '{', '[':
		if s.depth == 0 && (c == '[' || s.state != beforeObject) {
			s.done = true
			return
		}
		s.depth++
		if s.depth == 1 {
			s.state = beforeKey
		}
	case '}', ']':
		s.depth--
		s.done = s.depth <= 0
	case ',':
		if s.depth == 1 {
			s.state = beforeKey
		}
	case ':':
		if s.depth == 1 && s.state == modelColon {
			s.state = modelValue
		} else if s.depth == 1 {
			s.state = beforeValue
		}
	default:
		s.done = s.done || s.depth == 0
	}
	// A model that is no string names none.
	if s.state == modelValue && c != ':' {
		s.done = true
	}
}
