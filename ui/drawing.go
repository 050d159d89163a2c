package ui

import (
	"encoding/json"
	"maps"
	"sync"
)

// mostDrawings bounds how many views are kept that nobody may look at any more.
const mostDrawings = 64

// drawings are views as JSON, so that many browsers cost what one does.
type drawings struct {
	mu    sync.Mutex
	drawn map[string]drawing
}

// drawing is a view of the facts that hold until changed is closed.
type drawing struct {
	changed <-chan struct{}
	text    []byte
}

// of returns the view with a name of the facts that hold until changed is closed, and makes
// it where it is not there yet. One is made at a time.
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
	if len(d.drawn) >= mostDrawings {
		maps.DeleteFunc(d.drawn, func(_ string, old drawing) bool { return old.changed != changed })
	}
	if len(d.drawn) < mostDrawings {
		d.drawn[name] = drawing{changed, text}
	}
	return text, nil
}
