package field

// Character classes of RFC 9110, 5.

const (
	tokenChar = 1 << iota
	valueChar // in a header's value: all but control characters other than tab
	graphChar // in a target: no space or control character
	plainChar // in a target or host: graphChar in ASCII
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

// IsToken reports whether s is a token, such as a method or the name of a field.
func IsToken[T string | []byte](s T) bool { return len(s) > 0 && consists(s, tokenChar) }

// IsValue reports whether s has no control character other than tab.
func IsValue[T string | []byte](s T) bool { return consists(s, valueChar) }

// IsTarget reports whether s is not empty and has no space or control character, as a host or target.
func IsTarget[T string | []byte](s T) bool { return len(s) > 0 && consists(s, graphChar) }

// IsPlain reports whether s is an ASCII string for which IsTarget holds.
func IsPlain[T string | []byte](s T) bool { return len(s) > 0 && consists(s, plainChar) }
