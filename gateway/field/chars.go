package field

// Character classes of RFC 9110, 5.

const (
	tokenChar = 1 << iota
	valueChar // of a header's value: all but control characters other than tab
	graphChar // of a target: no space or control character
	plainChar // of a target or host, in ASCII
)

var classes = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c == '\t' || c == ' ':
			t[c] = valueChar
		case c > ' ' && c < 0x7f:
			t[c] = valueChar | graphChar | plainChar
		case c > 0x7f:
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

// IsToken reports whether s is a token, as methods and names of fields are.
func IsToken[T string | []byte](s T) bool { return len(s) > 0 && consists(s, tokenChar) }

// IsValue reports whether s has no control character other than tab.
func IsValue[T string | []byte](s T) bool { return consists(s, valueChar) }

// IsTarget reports whether a host or target is one word.
func IsTarget[T string | []byte](s T) bool { return len(s) > 0 && consists(s, graphChar) }

// IsPlain reports whether a host or target is one word of ASCII.
func IsPlain[T string | []byte](s T) bool { return len(s) > 0 && consists(s, plainChar) }
