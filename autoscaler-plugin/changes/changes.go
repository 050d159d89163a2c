// Package changes lets a daemon that looks again and again say what it sees only when that
// is not what it saw before.
package changes

import "sync"

// Seen remembers the last value of each key. The zero Seen has seen the zero value of
// every key; it is safe for concurrent use.
type Seen[K, V comparable] struct {
	mu   sync.Mutex
	last map[K]V
}

// Changed remembers a value and reports whether the key had another one.
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
