package config

import (
	"fmt"
	"os"
	"strings"
)

// Secret is where a token stands. It is read at each use, so that a token that is
// rotated in its file is picked up, and it never holds the token itself.
type Secret struct {
	File, Env string
}

// Read returns the token, "" when none is configured.
func (s Secret) Read() (string, error) {
	if s.File != "" {
		text, err := os.ReadFile(s.File)
		if err != nil {
			return "", fmt.Errorf("token_file: %w", err)
		}
		token := strings.TrimSpace(string(text))
		if token == "" {
			// A writer that truncates the file before it writes: a request without a
			// token would be answered as nobody's, and a blocking one only after minutes.
			return "", fmt.Errorf("token_file: %s is empty", s.File)
		}
		return token, nil
	}
	return os.Getenv(s.Env), nil
}
