package gateway

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
)

// minSaltKey is the shortest length of the salt key in bytes: a shorter one can be guessed.
const minSaltKey = 16

// saltKey reads the salt key from a file, or creates a random one if path is "".
func saltKey(path string) ([]byte, error) {
	if path == "" {
		key := make([]byte, sha256.Size)
		rand.Read(key)
		return key, nil
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cache_salt_key_file: %w", err)
	}
	if len(key) < minSaltKey {
		return nil, fmt.Errorf("cache_salt_key_file: %s has %d bytes: want at least %d random bytes", path,
			len(key), minSaltKey)
	}
	return key, nil
}

// saltOf returns the salt of a tenant's caches. Nobody can compute it without the key. A tenant's
// own salt divides its caches further.
func saltOf(key []byte, tenant string, own []byte) string {
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "%d:%s", len(tenant), tenant)
	h.Write(own)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
