// Package blob decides about the chunks of large objects that the nodes of a cluster
// cache together: how an object is cut, which node reads which chunk from the origin,
// which chunk is read next and what makes room. It takes values and returns values.
package blob

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// ChunkSize is the size of all chunks of an object but the last, in bytes.
const ChunkSize = 8 << 20

// Object is a sequence of bytes that never changes.
type Object struct {
	// ID says what the bytes are: "sha256-" and their digest, "git-" and the SHA-1 that
	// Git gives a blob, or "name-" and a digest of where they were found, when and how
	// large. The last is for an origin that publishes no digest, and for bytes whose digest
	// gives nobody the right to read them.
	ID string `json:"id"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// Sum is a checksum of the bytes by the origin's word, for an ID that holds no digest;
	// "" where there is none. See ParseSum.
	Sum string `json:"sum,omitempty"`
}

// digits are the hexadecimal digits of an ID by its kind.
var digits = map[string]int{"sha256": 64, "git": 40, "name": 64}

// Kind is the part of the ID before its digest: "sha256", "git" or "name".
func (o Object) Kind() string {
	kind, _, _ := strings.Cut(o.ID, "-")
	return kind
}

// Digest is the part of the ID after its kind, in lower-case hexadecimal digits.
func (o Object) Digest() string {
	_, digest, _ := strings.Cut(o.ID, "-")
	return digest
}

// Checksum is what the bytes are checked against: the digest in the ID, otherwise Sum. It is
// the zero Sum where there is neither.
func (o Object) Checksum() Sum {
	if kind := o.Kind(); kind != "name" {
		return Sum{Algorithm: kind, Digest: o.Digest()}
	}
	s, err := ParseSum(o.Sum)
	if err != nil {
		return Sum{}
	}
	return s
}

// Check reports what is wrong with an object that came from elsewhere. An ID that
// passes is safe as the name of a file.
func (o Object) Check() error {
	kind, digest, _ := strings.Cut(o.ID, "-")
	if raw, err := hex.DecodeString(digest); digits[kind] == 0 || err != nil || 2*len(raw) != digits[kind] ||
		strings.ToLower(digest) != digest {
		return fmt.Errorf("object %.80q: want sha256-, git- or name- and a digest in lower case", o.ID)
	}
	if o.Size < 0 {
		return fmt.Errorf("object %s: %d bytes", o.ID, o.Size)
	}
	if o.Sum == "" {
		return nil
	}
	_, err := ParseSum(o.Sum)
	return err
}

// Chunks is the number of the object's chunks.
func (o Object) Chunks() int { return chunks(o.Size) }

// chunks is how many chunks hold the first n bytes. No n is too large for it.
func chunks(n int64) int {
	if n <= 0 {
		return 0
	}
	return int((n-1)/ChunkSize) + 1
}

// Span is where a chunk lies, in bytes.
func (o Object) Span(chunk int) (offset, length int64) {
	offset = int64(chunk) * ChunkSize
	return offset, min(ChunkSize, o.Size-offset)
}

// Covering are the chunks from first to before end that hold the bytes from offset to
// before to.
func (o Object) Covering(offset, to int64) (first, end int) {
	to = min(to, o.Size)
	if offset >= to {
		return 0, 0
	}
	return int(offset / ChunkSize), chunks(to)
}
