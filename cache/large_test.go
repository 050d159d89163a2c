package cache

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"aliquot.example/cache/hubtest"
)

// BenchmarkFileOfALargeRepository asks the face for files, one after another, of a repository
// with 20,000 files that are on the node.
func BenchmarkFileOfALargeRepository(b *testing.B) {
	hub, stop := hubtest.Start()
	defer stop()
	files := map[string]hubtest.File{}
	for i := range 20_000 {
		files[fmt.Sprintf("data/%03d/part-%05d.bin", i/1000, i)] = hubtest.File{Body: fmt.Appendf(nil, "part %d", i)}
	}
	hub.Push("org/large", "main", files)
	d, err := Start(b.Context(), settingsIn(b.TempDir(), hub.URL), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	one := func(i int) {
		res, err := http.Get(fmt.Sprintf("%s/org/large/resolve/main/data/000/part-%05d.bin", d.hf, i))
		if err != nil || res.StatusCode != http.StatusOK {
			b.Fatalf("%v, %v", res, err)
		}
		res.Body.Close()
	}
	one(0)
	for b.Loop() {
		one(0)
	}
}
