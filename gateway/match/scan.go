package match

import (
	"bytes"
	"encoding/json"
)

// scanner finds the string value of the top-level key "model" in a JSON object. It reads the text
// piece by piece and keeps only this value. It does not validate: for other text the result is
// arbitrary, but the scan ends. If the key occurs several times, the last one counts, as in the
// parsers of the replicas.
type scanner struct {
	depth    int
	state    scanState
	inString bool
	escaped  bool
	isKey    bool // the current string is a top-level key
	keep     bool // raw keeps the current string
	raw      []byte
	model    string
	begun    bool // the first byte was read
	done     bool // nothing else can be found
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

// maxModel is the longest name of a model, in bytes of JSON text.
const maxModel = 512

// mark is the byte order mark. Some clients send it, and most parsers skip it.
const mark = "\xef\xbb\xbf"

// feed reads more text. The caller must not split the mark.
func (s *scanner) feed(text []byte) {
	if !s.begun && len(text) > 0 {
		s.begun = true
		text = bytes.TrimPrefix(text, []byte(mark))
	}
	quote := -1 // position before which there is no quote
	for i := 0; i < len(text) && !s.done; {
		if s.inString && !s.keep && !s.escaped {
			// Prompts and images are long strings. Skip to their end.
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
		if len(s.raw) >= maxModel {
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

// ended handles a complete string.
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
	// The value of "model" is not a string.
	if s.state == modelValue && c != ':' {
		s.model, s.state = "", afterValue
	}
}

// quote starts a string.
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

// separate moves on to the next key or value of the outer object.
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
