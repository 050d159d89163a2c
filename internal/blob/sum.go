package blob

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Sum is a checksum of an object.
type Sum struct {
	// Algorithm is "sha256", "git", which is the SHA-1 that Git gives a blob, or "md5".
	Algorithm string
	// Digest is in lower-case hexadecimal digits.
	Digest string
	// Part is the size in bytes of all parts but the last, where Digest is that of the
	// digests of the parts, as S3 sums what was uploaded in parts; 0 otherwise.
	Part int64
}

// ParseSum reads "sha256:<digest>", "git:<digest>", "md5:<digest>" or
// "md5:<digest>:<size of a part>".
func ParseSum(text string) (Sum, error) {
	words := strings.Split(text, ":")
	lengths := map[string]int{"sha256": 64, "git": 40, "md5": 32}
	s := Sum{Algorithm: words[0]}
	wrong := fmt.Errorf("checksum %.120q: want sha256:<digest>, git:<digest>, "+
		"md5:<digest> or md5:<digest>:<size of a part>", text)
	if len(words) < 2 || len(words) > 3 || len(words) == 3 && s.Algorithm != "md5" {
		return Sum{}, wrong
	}
	raw, err := hex.DecodeString(words[1])
	if err != nil || len(raw) == 0 || 2*len(raw) != lengths[s.Algorithm] || strings.ToLower(words[1]) != words[1] {
		return Sum{}, wrong
	}
	s.Digest = words[1]
	if len(words) == 3 {
		n, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil || n <= 0 {
			return Sum{}, wrong
		}
		s.Part = n
	}
	return s, nil
}

// String writes the sum as ParseSum reads it.
func (s Sum) String() string {
	if s.Part > 0 {
		return fmt.Sprintf("%s:%s:%d", s.Algorithm, s.Digest, s.Part)
	}
	return s.Algorithm + ":" + s.Digest
}
