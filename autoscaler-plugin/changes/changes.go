// Package changes lets a daemon that polls log a value only when it has changed.
package changes

import "sync"

// Seen remembers the last value of each key. Keys start with the zero value of V. Seen is safe for
// concurrent use.
type Seen[K, V comparable] struct {
	mu   sync.Mutex
	last map[K]V
}

// Changed stores a value and reports whether it differs from the key's previous value.
func (s *Seen[K, V]) Changed(key K, value V) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[key] == value {
		return false
	}
	if s.last == nil {
		s.last = map[K]V{}
	}
	s.last[key] = value
	return true
}
