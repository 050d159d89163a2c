package prompt

import (
	"encoding/binary"
	"math/bits"
)

// chain hashes the blocks of a prompt, each together with all blocks before it.
type chain struct {
	key    Key
	last   uint64
	block  [BlockSize]byte
	filled int
	blocks []uint64
}

// salt makes all subsequent hashes depend on v.
func (c *chain) salt(v []byte) { c.last = siphash(c.key, c.last, v) }

// of hashes one value independently of the chain.
func (c *chain) of(v []byte) uint64 { return siphash(c.key, 0, v) }

// full reports whether the chain accepts no more blocks.
func (c *chain) full() bool { return len(c.blocks) >= maxBlocks }

func (c *chain) write(v []byte) {
	for len(v) > 0 && !c.full() {
		full := v
		if c.filled > 0 || len(v) < BlockSize {
			n := copy(c.block[c.filled:], v)
			v = v[n:]
			if c.filled += n; c.filled < BlockSize {
				return
			}
			full, c.filled = c.block[:], 0
		} else {
			full, v = v[:BlockSize], v[BlockSize:]
		}
		c.last = siphash(c.key, c.last, full)
		c.blocks = append(c.blocks, c.last)
	}
}

// For returns the key of one of several whose prompts never have a block in common.
func (k Key) For(name string) Key {
	return Key{siphash(k, 0, []byte(name)), siphash(k, 1, []byte(name))}
}

// Follow assumes that the part of a prompt that was not read, and so has no blocks, is the same in
// every prompt of the session, because a session's prompts continue each other.
func (s *Size) Follow(session string, key Key) {
	last := uint64(0)
	if n := len(s.Blocks); n > 0 {
		last = s.Blocks[n-1]
	}
	for want := min((s.Text+s.IDs*bytesPerToken)/BlockSize, maxBlocks); int64(len(s.Blocks)) < want; {
		last = siphash(key, last, []byte(session))
		s.Blocks = append(s.Blocks, last)
	}
}

// siphash is SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of the
// previous hash and a text. Without the key nobody can construct two texts with the same hash, or
// test a guess.
func siphash(key Key, before uint64, text []byte) uint64 {
	v0, v1 := key[0]^0x736f6d6570736575, key[1]^0x646f72616e646f6d
	v2, v3 := key[0]^0x6c7967656e657261, key[1]^0x7465646279746573
	length := uint64(len(text)+8) << 56
	v3 ^= before
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= before
	for len(text) >= 8 {
		m := binary.LittleEndian.Uint64(text)
		text = text[8:]
		v3 ^= m
		v0, v1, v2, v3 = round(v0, v1, v2, v3)
		v0 ^= m
	}
	m := length
	for i, b := range text {
		m |= uint64(b) << (8 * i)
	}
	v3 ^= m
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= m
	v2 ^= 0xff
	for range 3 {
		v0, v1, v2, v3 = round(v0, v1, v2, v3)
	}
	return v0 ^ v1 ^ v2 ^ v3
}

func round(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v2 += v3
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v1
	v0 += v3
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}
