package cacheapi

import (
	"encoding/base64"
	"strings"
)

// The tokens of a Fetch for other origins than the Hub, whose tokens are their own. They are
// secrets.
const (
	loginToken = "basic:"
	keysToken  = "aws:"
)

// Login makes the token of a name and a password for a registry. A name has no colon.
func Login(user, password string) string { return pack(loginToken, ":", user, password) }

// ParseLogin reads a token of Login.
func ParseLogin(token string) (user, password string, ok bool) {
	words, ok := unpack(loginToken, ":", token, 2)
	if !ok {
		return "", "", false
	}
	return words[0], words[1], true
}

// S3Keys are keys of a server that speaks S3.
type S3Keys struct {
	// Endpoint is the server's URL, "" for Amazon's.
	Endpoint string
	// Session is "" for keys that last.
	ID, Secret, Session string
}

// Token makes the token of keys.
func (k S3Keys) Token() string { return pack(keysToken, "\n", k.Endpoint, k.ID, k.Secret, k.Session) }

// ParseKeys reads a token of keys of S3.
func ParseKeys(token string) (k S3Keys, ok bool) {
	words, ok := unpack(keysToken, "\n", token, 4)
	if !ok {
		return k, false
	}
	return S3Keys{words[0], words[1], words[2], words[3]}, true
}

func pack(kind, between string, words ...string) string {
	return kind + base64.StdEncoding.EncodeToString([]byte(strings.Join(words, between)))
}

func unpack(kind, between, token string, count int) (words []string, ok bool) {
	rest, ok := strings.CutPrefix(token, kind)
	if !ok {
		return nil, false
	}
	raw, err := base64.StdEncoding.DecodeString(rest)
	words = strings.SplitN(string(raw), between, count)
	return words, err == nil && len(words) == count
}
