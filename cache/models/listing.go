package models

import (
	"cmp"
	"encoding/json"
	"sync"

	"aliquot.example/cache/origin"
	"aliquot.example/internal/blob"
)

// Listing is a revision of a model, with what its origin said about it. Copies share files and
// tree, which must not be changed.
type Listing struct {
	origin.Listing
	// Info and Tree are the Hub's own answers, for its clients.
	Info json.RawMessage   `json:"info,omitempty"`
	Tree []json.RawMessage `json:"tree,omitempty"`
	// Stale is true if the origin did not answer and this is the last known revision.
	Stale bool `json:"-"`

	// index is filled at the first lookup of a file.
	index *index
}

// index maps paths to positions in a listing.
type index struct {
	once        sync.Once
	files, tree map[string]int
	paths       []string // of the tree
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *Listing) UnmarshalJSON(text []byte) error {
	type plain Listing
	err := json.Unmarshal(text, (*plain)(l))
	l.index = &index{}
	return err
}

// of returns a copy for a ref that names this revision.
func (l *Listing) of(ref blob.Ref) *Listing {
	copied := *l
	copied.Ref = ref
	return &copied
}

// indexed returns the index and fills it if necessary.
func (l *Listing) indexed() *index {
	i := cmp.Or(l.index, &index{})
	i.once.Do(func() {
		i.files, i.tree = make(map[string]int, len(l.Files)), make(map[string]int, len(l.Tree))
		for n, f := range l.Files {
			i.files[f.Path] = n
		}
		i.paths = make([]string, len(l.Tree))
		for n, raw := range l.Tree {
			var e struct {
				Path string `json:"path"`
			}
			_ = json.Unmarshal(raw, &e)
			i.paths[n] = e.Path
			i.tree[e.Path] = n
		}
	})
	return i
}

// File returns the file at a path.
func (l *Listing) File(path string) (f origin.File, ok bool) {
	n, ok := l.indexed().files[path]
	if !ok {
		return f, false
	}
	return l.Files[n], true
}

// Paths returns the paths of Tree, in the same order.
func (l *Listing) Paths() []string { return l.indexed().paths }

// Entry returns the Hub's own answer about a path.
func (l *Listing) Entry(path string) (raw json.RawMessage, ok bool) {
	n, ok := l.indexed().tree[path]
	if !ok {
		return nil, false
	}
	return l.Tree[n], true
}
