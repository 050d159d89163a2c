package cache

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"aliquot.example/cache/hubtest"
)

// BenchmarkFileOfALargeRepository asks the endpoint for a file that is on the node, of a repository
// with 20,000 files.
func BenchmarkFileOfALargeRepository(b *testing.B) {
	hub, stop := hubtest.Start()
	defer stop()
	files := map[string]hubtest.File{}
	for i := range 20_000 {
		files[fmt.Sprintf("data/%03d/part-%05d.bin", i/1000, i)] = hubtest.File{Body: fmt.Appendf(nil, "part %d", i)}
	}
	hub.Push("org/large", "main", files)
	hub.Set(func(h *hubtest.Hub) { h.Page = 1000 })
	d, err := Start(b.Context(), settingsIn(b.TempDir(), hub.URL), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	d.library.ListWait = time.Hour
	one := func() {
		res, err := http.Get(d.hfURL + "/org/large/resolve/main/data/000/part-00000.bin")
		if err != nil || res.StatusCode != http.StatusOK {
			b.Fatalf("%v, %v", res, err)
		}
		res.Body.Close()
	}
	one()
	for b.Loop() {
		one()
	}
}
