package prompt

import (
	"encoding/binary"
	"testing"
)

// The vectors are Python's: since 3.11 hash(bytes(range(n))) is SipHash-1-3, under
// PYTHONHASHSEED=0 with a key of zeros.
func TestSipHash(t *testing.T) {
	for n, want := range map[int]uint64{
		8: 0xead411e67ebe2eea, 9: 0x75927f9d95124362, 15: 0xf30eb725bb91c9ea, 16: 0x8972188433a5c5b7,
		23: 0x37332b1389daa4ff, 64: 0x75e05fd5bbc870c6, 100: 0x1c6a66e1506e7908,
	} {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(i)
		}
		if got := siphash(Key{}, binary.LittleEndian.Uint64(text), text[8:]); got != want {
			t.Errorf("%d bytes: %#x, want %#x", n, got, want)
		}
	}
}
