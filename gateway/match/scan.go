package match

import (
	"bytes"
	"encoding/json"
)

// scanner finds the string value of the key "model" at the top level of a JSON
// object, reading the text piece by piece and keeping nothing but that value. It
// does not validate: of text that is no JSON object it may say anything but must
// end. Of several such keys the last counts, as in the parsers of the replicas.
type scanner struct {
	depth    int
	state    scanState
	inString bool
	escaped  bool
	isKey    bool // the running string is a key at the top level
	keep     bool // the running string is kept in raw
	raw      []byte
	model    string
	begun    bool // a first byte has come
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

// mark is the byte order mark, which some clients send and most parsers skip.
const mark = "\xef\xbb\xbf"

// feed reads more text. The mark must not be cut.
func (s *scanner) feed(text []byte) {
	if !s.begun && len(text) > 0 {
		s.begun = true
		text = bytes.TrimPrefix(text, []byte(mark))
	}
	quote := -1 // a place up to which no quote stands
	for i := 0; i < len(text) && !s.done; {
		if s.inString && !s.keep && !s.escaped {
			// Prompts and images are long strings, of which only the end matters.
			if quote < i {
				if quote = bytes.IndexByte(text[i:], '"') + i; quote < i {
					quote = len(text)
				}
			}
			if at := bytes.IndexByte(text[i:quote], '\\'); at >= 0 {
				i += at
			} else if i = quote; i == len(text) {
				return
			}
		}
		if s.inString {
			s.string(text[i])
		} else {
			s.structure(text[i])
		}
		i++
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
		s.model, s.state = text, afterValue
	default:
		s.state = afterValue
	}
}

func (s *scanner) structure(c byte) {
	switch c {
	case ' ', '\t', '\n', '\r':
		return
	case '"':
		s.quote()
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
	case ',', ':':
		if s.depth == 1 {
			s.separate(c)
		}
	default:
		s.done = s.done || s.depth == 0
	}
	// A model that is no string names none.
	if s.state == modelValue && c != ':' {
		s.model, s.state = "", afterValue
	}
}

// quote begins a string.
func (s *scanner) quote() {
	s.inString = true
	s.isKey = s.depth == 1 && s.state == beforeKey
	s.keep = s.isKey || (s.depth == 1 && s.state == modelValue)
	if s.depth == 0 {
		s.done = true
	}
	if s.keep {
		s.raw = append(s.raw[:0], '"')
	}
}

// separate goes on to the next key or value of the outer object.
func (s *scanner) separate(c byte) {
	switch {
	case c == ',':
		s.state = beforeKey
	case s.state == modelColon:
		s.state = modelValue
	default:
		s.state = beforeValue
	}
}
