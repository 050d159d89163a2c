package join

// value is a JSON value.
type value struct {
	// kind is the first byte of the value: { [ " t f n, and 0 for a number.
	kind byte
	// text is a scalar as it was written, a string without its quotes.
	text  []byte
	keys  []string // of an object, as they were written
	items []*value // of an object or a list
}

func (v *value) null() bool { return v.kind == 'n' }

// get returns a member, or nil if there is none or the value is not an object.
func (v *value) get(key string) *value {
	if v == nil {
		return nil
	}
	for i, k := range v.keys {
		if k == key {
			return v.items[i]
		}
	}
	return nil
}

// set replaces a member in its place, or appends it.
func (v *value) set(key string, m *value) {
	for i, k := range v.keys {
		if k == key {
			v.items[i] = m
			return
		}
	}
	v.keys, v.items = append(v.keys, key), append(v.items, m)
}

func (v *value) drop(key string) {
	for i, k := range v.keys {
		if k == key {
			v.keys = append(v.keys[:i], v.keys[i+1:]...)
			v.items = append(v.items[:i], v.items[i+1:]...)
			return
		}
	}
}

// write appends the value as JSON text.
func (v *value) write(out []byte) []byte {
	switch v.kind {
	case '{':
		out = append(out, '{')
		for i, key := range v.keys {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(append(append(out, '"'), key...), '"', ':')
			out = v.items[i].write(out)
		}
		return append(out, '}')
	case '[':
		out = append(out, '[')
		for i, e := range v.items {
			if i > 0 {
				out = append(out, ',')
			}
			out = e.write(out)
		}
		return append(out, ']')
	case '"':
		return append(append(append(out, '"'), v.text...), '"')
	case 'n':
		return append(out, "null"...)
	}
	return append(out, v.text...)
}

// parse parses valid JSON text. The result does not refer to the text.
func parse(text []byte) *value {
	p := parser{text: append([]byte(nil), text...)}
	return p.value()
}

type parser struct {
	text []byte
	at   int
}

// next skips white space, commas and colons.
func (p *parser) next() byte {
	for {
		switch c := p.text[p.at]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
			p.at++
		default:
			return c
		}
	}
}

func (p *parser) value() *value {
	switch c := p.next(); c {
	case '{':
		v := &value{kind: c}
		for p.at++; p.next() != '}'; {
			key := string(p.quoted())
			v.set(key, p.value())
		}
		p.at++
		return v
	case '[':
		v := &value{kind: c}
		for p.at++; p.next() != ']'; {
			v.items = append(v.items, p.value())
		}
		p.at++
		return v
	case '"':
		text := p.quoted()
		return &value{kind: c, text: text[:len(text):len(text)]}
	case 't', 'f', 'n':
		return &value{kind: c, text: p.scalar()}
	}
	return &value{kind: '0', text: p.scalar()}
}

// quoted reads a string and returns what is between its quotes.
func (p *parser) quoted() []byte {
	p.at++
	from := p.at
	for p.text[p.at] != '"' {
		if p.text[p.at] == '\\' {
			p.at++
		}
		p.at++
	}
	p.at++
	return p.text[from : p.at-1]
}

func (p *parser) scalar() []byte {
	from := p.at
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r', ',', '}', ']':
			return p.text[from:p.at]
		}
		p.at++
	}
	return p.text[from:]
}
