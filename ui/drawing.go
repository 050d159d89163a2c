package ui

import (
	"encoding/json"
	"maps"
	"sync"
)

// maxDrawings limits the cached views. Outdated ones are removed when it is reached.
const maxDrawings = 64

// drawings caches views as JSON, so that many browsers cost as much as one.
type drawings struct {
	mu    sync.Mutex
	drawn map[string]drawing
}

// drawing is a view of facts that are valid until changed is closed.
type drawing struct {
	changed <-chan struct{}
	text    []byte
}

// of returns the JSON of a named view for the facts that are valid until changed is closed. It
// creates it with view if it is not cached, one at a time.
func (d *drawings) of(name string, changed <-chan struct{}, view func() any) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if had := d.drawn[name]; had.changed == changed && had.text != nil {
		return had.text, nil
	}
	text, err := json.Marshal(view())
	if err != nil {
		return nil, err
	}
	if d.drawn == nil {
		d.drawn = map[string]drawing{}
	}
	if len(d.drawn) >= maxDrawings {
		maps.DeleteFunc(d.drawn, func(_ string, old drawing) bool { return old.changed != changed })
	}
	if len(d.drawn) < maxDrawings {
		d.drawn[name] = drawing{changed, text}
	}
	return text, nil
}
