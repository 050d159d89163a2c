package wire

// Character classes of RFC 9110, 5.

const (
	tokenChar = 1 << iota
	valueChar // of a header's value: all but control characters other than tab
	graphChar // of a target: no space or control character
)

var classes = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c == '\t' || c == ' ':
			t[c] = valueChar
		case c > ' ' && c != 0x7f:
			t[c] = valueChar | graphChar
		}
	}
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] |= tokenChar
	}
	return t
}()

func consists[T string | []byte](s T, class uint8) bool {
	for i := range len(s) {
		if classes[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

func isToken[T string | []byte](s T) bool      { return len(s) > 0 && consists(s, tokenChar) }
func isFieldValue[T string | []byte](s T) bool { return consists(s, valueChar) }

// isTarget reports whether a host or target is one word.
func isTarget(s string) bool { return len(s) > 0 && consists(s, graphChar) }
