package prompt

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// writer measures a prompt and hashes it.
type writer struct {
	size   *Size
	chain  chain
	hashed bool
}

// between follows each piece of text, so that "ab" "c" and "a" "bc" differ.
var between = []byte{'\n'}

// value adds the text of a JSON value to the prompt: its strings, unescaped, and its numbers and
// literals. It leaves out the structure, because model servers replace it by their own.
func (w *writer) value(text []byte) {
	c := cursor{text: text}
	var key []byte
	for {
		switch b := c.next(); b {
		case 0:
			return
		case '{', '}', '[', ']', ':':
			c.at++
		case '"':
			s := c.quoted()
			if !c.colon() {
				w.string(key, s)
				continue
			}
			switch key = s; string(key) {
			case "role", "content", "type", "text": // part of every message
			case "cache_control":
				c.value() // a cache marker that moves from turn to turn
			default:
				w.plain(s)
			}
		default:
			w.plain(c.scalar())
		}
	}
}

// prompts adds a prompt, several prompts, or either as token numbers. Only the first of several is
// hashed, because they share no cache with each other.
func (w *writer) prompts(text []byte) {
	c := cursor{text: text}
	for depth := 0; ; {
		switch b := c.next(); b {
		case 0:
			return
		case '[':
			depth++
			c.at++
		case ']':
			w.hashed = w.hashed && depth < 2
			depth--
			c.at++
		case '"':
			w.string(nil, c.quoted())
			w.hashed = false
		case '{', '}', ':':
			c.at++
		default:
			w.id(c.scalar())
		}
	}
}

// id adds one token's number: four bytes, as many as a token of text has.
func (w *writer) id(v []byte) {
	n, err := strconv.ParseUint(string(v), 10, 32)
	if err != nil {
		return
	}
	w.size.IDs++
	if w.hashed {
		w.chain.write([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	}
}

func (w *writer) plain(v []byte) {
	w.text(v)
	w.text(between)
}

func (w *writer) text(v []byte) {
	w.size.Text += int64(len(v))
	if w.hashed {
		w.chain.write(v)
	}
}

// string adds a string value.
func (w *writer) string(key, v []byte) {
	if isMedia(key, v) {
		w.media(v)
		return
	}
	for len(v) > 0 {
		i := bytes.IndexByte(v, '\\')
		if i < 0 {
			break
		}
		w.text(v[:i])
		var buf [utf8.UTFMax]byte
		n, used := unescape(v[i:], &buf)
		w.text(buf[:n])
		v = v[i+used:]
	}
	w.text(v)
	w.text(between)
}

// unescape decodes the escape sequence at the start of v and returns how many bytes it produced and
// consumed.
func unescape(v []byte, out *[utf8.UTFMax]byte) (n, used int) {
	if len(v) < 2 {
		return 0, len(v)
	}
	plain := v[1]
	switch v[1] {
	case 'n':
		plain = '\n'
	case 't':
		plain = '\t'
	case 'r':
		plain = '\r'
	case 'b':
		plain = '\b'
	case 'f':
		plain = '\f'
	case 'u':
		r, ok := hex4(v)
		if !ok {
			return 0, 2
		}
		if utf16.IsSurrogate(r) {
			if low, ok := hex4(v[6:]); ok {
				if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
					return utf8.EncodeRune(out[:], pair), 12
				}
			}
		}
		return utf8.EncodeRune(out[:], r), 6
	}
	out[0] = plain
	return 1, 2
}

// hex4 parses \uXXXX.
func hex4(v []byte) (rune, bool) {
	if len(v) < 6 || v[0] != '\\' || v[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range v[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// isMedia reports whether a string is an image, a sound or a file, or the address of one.
func isMedia(key, v []byte) bool {
	switch string(key) {
	case "url", "image_url", "video_url", "audio_url", "file_url":
		return bytes.HasPrefix(v, []byte("data:")) || bytes.HasPrefix(v, []byte("http"))
	case "data", "file_data":
		return bytes.HasPrefix(v, []byte("data:")) || isBase64(v)
	}
	return false
}

// isBase64 reports whether the start of a string is base64. Shorter strings cost little either way.
func isBase64(v []byte) bool {
	const looked = 64
	if len(v) < looked {
		return false
	}
	for _, c := range v[:looked] {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '+', c == '/', c == '-', c == '_',
			c == '\\': // "\/" is a slash
		default:
			return false
		}
	}
	return true
}

// media adds an image to the prompt: its hash, for as many bytes as its tokens would have. A body
// may contain hundreds of thousands of images, of a few bytes each.
func (w *writer) media(v []byte) {
	w.size.Media++
	if !w.hashed || w.chain.full() {
		return
	}
	var mark [mediaTokens * bytesPerToken]byte
	binary.LittleEndian.PutUint64(mark[:], w.chain.of(v))
	for n := 8; n < len(mark); n *= 2 {
		copy(mark[n:], mark[:n])
	}
	w.chain.write(mark[:])
}
