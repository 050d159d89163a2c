package compiled

import "time"

// Tree is what is known of a directory without reading its files: two equal trees hold
// the same files.
type Tree struct {
	Files int
	Bytes int64
	// Sum is a digest of names, sizes and times of change.
	Sum string
}

// Verdict says what to do with a task's directory.
type Verdict int

const (
	// Wait is said while the task still compiles, or is not healthy yet.
	Wait Verdict = iota
	// Publish is said once the task is healthy and has compiled all.
	Publish
	// Leave is said where nothing is to be published any more.
	Leave
)

// Settling watches the directory of one task.
type Settling struct {
	// For is how long it has to stay as it is. Until is when its task is given up: what
	// still changes then is not a cache of a start.
	For   time.Duration
	Until time.Time
	// Seed is what the directory held at the start, the zero Tree for nothing.
	Seed Tree

	last    Tree
	since   time.Time
	changed int
}

// attempts is how often a directory may change while it is packed: one that a program
// writes all the time would be packed again and again.
const attempts = 4

// Changed notes that the directory changed while it was packed. It has to rest twice as
// long then, and after some attempts nothing of it is published.
func (s *Settling) Changed() Verdict {
	s.changed++
	s.For *= 2
	s.since = time.Time{}
	if s.changed == attempts {
		return Leave
	}
	return Wait
}

// Observe takes the tree as it is now and whether the task answers its check. A directory
// that is as it was seeded is never published.
func (s *Settling) Observe(now time.Time, tree Tree, healthy bool) Verdict {
	if tree != s.last || s.since.IsZero() || !healthy {
		s.last, s.since = tree, now
	}
	switch {
	case now.Sub(s.since) >= s.For && tree.Files > 0 && tree.Sum != s.Seed.Sum:
		return Publish
	case !now.Before(s.Until):
		return Leave
	}
	return Wait
}
