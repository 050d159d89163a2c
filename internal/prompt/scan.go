package prompt

import "bytes"

// cursor reads JSON text from the start. It checks only what it needs to find where a value ends,
// and always makes progress or ends.
type cursor struct {
	text []byte
	at   int
}

// mark is the byte order mark, which some clients send and most parsers skip.
const mark = "\xef\xbb\xbf"

// newCursor starts after a byte order mark, if the text has one.
func newCursor(text []byte) cursor {
	c := cursor{text: text}
	if bytes.HasPrefix(text, []byte(mark)) {
		c.at = len(mark)
	}
	return c
}

// next skips white space and the separators of a container, and returns the byte that follows, or 0
// at the end.
func (c *cursor) next() byte {
	for c.at < len(c.text) {
		switch b := c.text[c.at]; b {
		case ' ', '\t', '\n', '\r', ',':
			c.at++
		default:
			return b
		}
	}
	return 0
}

// quoted reads a string whose opening quote is at the cursor and returns the text between the
// quotes, still escaped. A string without a closing quote extends to the end of the text.
func (c *cursor) quoted() []byte {
	from := c.at + 1
	at, quote := from, -1
	for at < len(c.text) {
		if quote < at { // searched once per stretch, otherwise each escape would cost a search
			i := bytes.IndexByte(c.text[at:], '"')
			if i < 0 {
				break
			}
			quote = at + i
		}
		escape := bytes.IndexByte(c.text[at:quote], '\\')
		if escape < 0 {
			c.at = quote + 1
			return c.text[from:quote]
		}
		at += escape + 2
	}
	c.at = len(c.text)
	return c.text[min(from, len(c.text)):]
}

// scalar reads a number or a literal.
func (c *cursor) scalar() []byte {
	from := c.at
	for c.at < len(c.text) {
		switch c.text[c.at] {
		case ' ', '\t', '\n', '\r', ',', ':', '"', '{', '}', '[', ']':
			return c.text[from:c.at]
		}
		c.at++
	}
	return c.text[from:]
}

// colon reports whether the string that was just read is a key, and moves past the colon.
func (c *cursor) colon() bool {
	at := c.at
	for at < len(c.text) && (c.text[at] == ' ' || c.text[at] == '\t' || c.text[at] == '\n' || c.text[at] == '\r') {
		at++
	}
	if at == len(c.text) || c.text[at] != ':' {
		return false
	}
	c.at = at + 1
	return true
}

// value reads the value at the cursor, of any kind, and returns its text.
func (c *cursor) value() []byte {
	first := c.next()
	from := c.at
	switch first {
	case 0:
		return nil
	case '"':
		c.quoted()
		return c.text[from:c.at]
	case '{', '[':
	default:
		if v := c.scalar(); len(v) > 0 {
			return v
		}
		c.at++ // an unexpected byte
		return nil
	}
	for depth := 0; c.at < len(c.text); {
		switch c.text[c.at] {
		case '"':
			c.quoted()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		c.at++
		if depth == 0 {
			break
		}
	}
	return c.text[from:c.at]
}
