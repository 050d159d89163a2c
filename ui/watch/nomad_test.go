package watch

import (
	"slices"
	"testing"
	"time"

	"aliquot.example/ui/view"
	"aliquot.example/ui/wirefake"
)

// Allocations that do not fit into one answer are all there, and a change of one of the last
// is seen.
func TestAllocationsAreReadPageByPage(t *testing.T) {
	c := wirefake.Start()
	defer c.Server.Close()
	node := c.AddNode("rack-1", "nvidia", "h100", 1, 2*perPage+7)
	for i := range 2*perPage + 7 {
		c.AddAlloc("job", "server", node, 0, i, 1)
	}
	n, _, err := c.Clients()
	if err != nil {
		t.Fatal(err)
	}
	w := New(Options{Nomad: n})
	go w.watchAllocs(t.Context())
	await := func(what string, there func([]view.Alloc) bool) {
		t.Helper()
		end := time.After(time.Minute)
		for {
			f, changed := w.Facts()
			if there(f.Allocs) {
				return
			}
			select {
			case <-changed:
			case <-end:
				t.Fatalf("%s: %d allocations", what, len(f.Allocs))
			}
		}
	}
	await("all", func(all []view.Alloc) bool { return len(all) == 2*perPage+7 })
	c.Do(func() {
		gone := *c.Allocs[2*perPage+6]
		gone.ClientStatus = "failed"
		c.Allocs[2*perPage+6] = &gone
	})
	await("a change", func(all []view.Alloc) bool {
		return len(all) == 2*perPage+7 && slices.ContainsFunc(all, func(a view.Alloc) bool { return a.Client == "failed" })
	})
}
