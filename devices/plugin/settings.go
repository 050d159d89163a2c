package plugin

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Settings reads settings from a decoded configuration. It keeps the first bad value as an error of
// one line with the key, the value and the fix.
type Settings struct {
	// path names the block in messages, for example `gpu "*" `.
	path   string
	values map[string]any
	err    error
}

// Err returns an error for the first bad value, or nil.
func (s *Settings) Err() error { return s.err }

// Has reports whether the key is set.
func (s *Settings) Has(key string) bool { return s.values[key] != nil }

func (s *Settings) fail(key, value, fix string) {
	if s.err == nil {
		s.err = fmt.Errorf("config %s%s = %q: %s", s.path, key, value, fix)
	}
}

// Refuse records that the value of key cannot be used. fix says what to write instead.
func (s *Settings) Refuse(key, fix string) { s.fail(key, s.String(key, ""), fix) }

// String returns the text of key, or def when it is not set.
func (s *Settings) String(key, def string) string {
	switch v := s.values[key].(type) {
	case nil:
		return def
	case string:
		return v
	case []byte:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}

// Strings returns the list of key, nil when it is not set.
func (s *Settings) Strings(key string) []string {
	list, _ := s.values[key].([]any)
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// OneOf returns the text of key, which must be one of allowed. The default is the first of them.
func (s *Settings) OneOf(key string, allowed ...string) string {
	v := s.String(key, allowed[0])
	if !slices.Contains(allowed, v) {
		s.fail(key, v, "want one of "+strings.Join(allowed, ", "))
	}
	return v
}

// Path returns the path of key, which must be absolute.
func (s *Settings) Path(key, def string) string {
	v := s.String(key, def)
	if !filepath.IsAbs(v) {
		s.fail(key, v, fmt.Sprintf("want an absolute path such as %q", def))
	}
	return filepath.Clean(v)
}

// Address returns the listening address of key, or "" if it is not set.
func (s *Settings) Address(key string) string {
	v := s.String(key, "")
	if v == "" {
		return ""
	}
	if _, port, err := net.SplitHostPort(v); err != nil || port == "" {
		s.fail(key, v, `want host and port, such as "127.0.0.1:9402" or ":9402"`)
	}
	return v
}

// Bool returns the boolean of key.
func (s *Settings) Bool(key string, def bool) bool {
	v := s.String(key, strconv.FormatBool(def))
	b, err := strconv.ParseBool(v)
	if err != nil {
		s.fail(key, v, "want true or false")
	}
	return b
}

// Int returns the whole number of key, which must be from lo to hi.
func (s *Settings) Int(key string, def, lo, hi int) int {
	v := s.String(key, strconv.Itoa(def))
	n, err := strconv.Atoi(v)
	if err != nil || n < lo || n > hi {
		s.fail(key, v, fmt.Sprintf("want a whole number from %d to %d", lo, hi))
	}
	return n
}

// Float returns the number of key, which must be from lo to hi.
func (s *Settings) Float(key string, def, lo, hi float64) float64 {
	v := s.String(key, strconv.FormatFloat(def, 'g', -1, 64))
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !(f >= lo && f <= hi) {
		s.fail(key, v, fmt.Sprintf("want a number from %g to %g", lo, hi))
	}
	return f
}

// Duration returns the duration of key, which must be from lo to hi.
func (s *Settings) Duration(key string, def, lo, hi time.Duration) time.Duration {
	v := s.String(key, def.String())
	d, err := time.ParseDuration(v)
	if err != nil || d < lo || d > hi {
		s.fail(key, v, fmt.Sprintf(`want a duration from %s to %s, such as "%s"`, lo, hi, def))
	}
	return d
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// RefuseValue is like Refuse, for one value of a list.
func (s *Settings) RefuseValue(key, value, fix string) { s.fail(key, value, fix) }
