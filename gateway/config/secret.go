package config

import (
	"fmt"
	"os"
	"strings"
)

// Secret says where to find a token. Read reads it at each use, so that a rotated token takes
// effect, and Secret never holds the token itself.
type Secret struct {
	File, Env string
}

// Read returns the token, or "" if none is configured.
func (s Secret) Read() (string, error) {
	if s.File != "" {
		text, err := os.ReadFile(s.File)
		if err != nil {
			return "", fmt.Errorf("token_file: %w", err)
		}
		token := strings.TrimSpace(string(text))
		if token == "" {
			// A writer may have truncated the file before it writes. Without a token the request
			// would be anonymous, and a blocking query would notice only after minutes.
			return "", fmt.Errorf("token_file: %s is empty", s.File)
		}
		return token, nil
	}
	return os.Getenv(s.Env), nil
}
