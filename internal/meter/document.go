package meter

import "strings"

// document scans one JSON object for generated text and usage. It does not validate: for invalid
// JSON the result is arbitrary, but the scan ends and needs no more memory than the fields here.
type document struct {
	depth   int
	objects uint64 // bit n is set when depth n+1 is an object
	atKey   bool   // the next string is a key

	inString, escaped bool
	name              [32]byte // start of the current string
	length            int      // of the current string

	key    key    // of the next value
	path   [3]key // of the outermost containers
	number int64  // the current number
	digits digits

	kind       [64]byte // value of the top-level "type"
	kindLength int
	text       int64 // bytes of generated text
	generated  bool  // there was text since reset
	used       used
}

type digits uint8

const (
	noNumber digits = iota
	inNumber
	afterDigits // a fraction or an exponent
)

// used has the numbers of the usage object by key, -1 for a missing one.
type used [usageKeys]int64

func (u *used) has(k key) bool { return u[k] >= 0 }

// reset starts the next document. It keeps the count of text.
func (d *document) reset() {
	text := d.text
	*d = document{text: text}
	for i := range d.used {
		d.used[i] = -1
	}
}

func (d *document) feed(p []byte) {
	for i := 0; i < len(p); {
		if d.inString {
			i += d.string(p[i:])
			continue
		}
		c := p[i]
		i++
		switch c {
		case '"':
			d.inString, d.length = true, 0
		case '{', '[':
			d.open(c == '{')
		case '}', ']':
			d.endNumber()
			d.close()
		case ',':
			d.endNumber()
			d.atKey = d.isObject()
		case ':':
			d.atKey = false
		case '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			d.digit(c)
		case '.', 'e', 'E', '-', '+':
			if d.digits == noNumber {
				d.number = -1 // negative
			}
			d.digits = afterDigits
		case ' ', '\t', '\n', '\r':
			d.endNumber()
		}
	}
}

func (d *document) end() { d.endNumber() }

func (d *document) isObject() bool {
	return d.depth > 0 && d.depth <= 64 && d.objects>>(d.depth-1)&1 == 1
}

func (d *document) open(object bool) {
	if d.depth > 0 && d.depth <= len(d.path) {
		d.path[d.depth-1] = d.key
	}
	if d.depth < 64 {
		d.objects &^= 1 << d.depth
		if object {
			d.objects |= 1 << d.depth
		}
	}
	d.depth++
	d.atKey, d.key = object, otherKey
}

func (d *document) close() {
	if d.depth--; d.depth < 0 {
		d.depth = 0
	}
	d.atKey, d.key = false, otherKey
}

// string scans p inside a string and returns the number of bytes consumed.
func (d *document) string(p []byte) int {
	i := 0
	if d.escaped {
		d.escaped = false
		d.keep(p[:1])
		i = 1
	}
	from := i
	for i < len(p) && p[i] != '"' && p[i] != '\\' {
		i++
	}
	d.keep(p[from:i])
	if i == len(p) {
		return i
	}
	if p[i] == '\\' {
		d.escaped = true
		d.keep(p[i : i+1])
	} else {
		d.inString = false
		d.endString()
	}
	return i + 1
}

func (d *document) keep(p []byte) {
	if d.length < len(d.name) {
		copy(d.name[d.length:], p)
	}
	if !d.atKey && d.key == kindKey && d.depth == 1 && d.length < len(d.kind) {
		d.kindLength = d.length + copy(d.kind[d.length:], p)
	}
	d.length += len(p)
}

func (d *document) endString() {
	if d.atKey {
		d.key = otherKey
		if d.length <= len(d.name) {
			d.key = keyOf(string(d.name[:d.length]))
		}
		return
	}
	if d.length > 0 && (d.key == textKey || d.key == nameKey && d.path[0] == choicesKey) {
		d.text += int64(d.length)
		d.generated = true
	}
}

func (d *document) digit(c byte) {
	switch d.digits {
	case noNumber:
		d.number, d.digits = int64(c-'0'), inNumber
	case inNumber:
		d.number = min(d.number*10+int64(c-'0'), maxTokens)
	}
}

// maxTokens limits a number of tokens.
const maxTokens = 1 << 40

func (d *document) endNumber() {
	if d.digits != noNumber && d.key < usageKeys && d.inUsage() && d.number >= 0 {
		d.used[d.key] = d.number
	}
	d.digits = noNumber
}

// inUsage reports whether the current value is in the server's usage object. Generated text is in
// other objects, so a model cannot forge usage.
func (d *document) inUsage() bool {
	switch d.path[0] {
	case usageKey:
		return d.depth >= 2
	case wrapperKey:
		return d.depth >= 3 && d.path[1] == usageKey
	}
	return false
}

// generates reports whether the event contains new generated text. In protocols whose events have a
// type, only delta events count: others repeat the text.
func (d *document) generates() bool {
	return d.generated && (d.kindLength == 0 || strings.HasSuffix(string(d.kind[:d.kindLength]), "delta"))
}
