package intake

import (
	"bytes"
	"testing"
	"testing/synctest"
)

// However the body is kept, its text is the beginning of it.
func TestTextIsTheBeginning(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef!"), 20_000)
	for name, limits := range map[string]Limits{
		"in memory": {Each: 1 << 20, Memory: 1 << 22},
		"in a file": {Each: 1 << 20, Memory: 1 << 10, Disk: 1 << 24, Dir: t.TempDir()},
	} {
		for _, length := range []int{0, 1, 1000, 5000, len(text)} {
			b := NewStore(limits).Body(bytes.NewReader(text[:length]), int64(length))
			if err := b.Take(); err != nil {
				t.Fatal(err)
			}
			for _, most := range []int64{0, 1, 3000, 1 << 20} {
				want := text[:min(int64(length), most)]
				if err := b.Text(most, func(got []byte) {
					if !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes of %d, at most %d", name, len(got), length, most)
					}
				}); err != nil {
					t.Errorf("%s: %d bytes, at most %d: %v", name, length, most, err)
				}
			}
			b.Free()
		}
	}
}

// Many bodies that are looked at at once are not copied all at once.
func TestCopiesOfBodiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 60_000
		s := NewStore(Limits{Each: 1 << 20, Memory: 8 << 20}) // copies of 2 MiB
		looking, done := make(chan struct{}, 100), make(chan struct{})
		for range 100 {
			b := s.Body(bytes.NewReader(make([]byte, size)), size)
			if err := b.Take(); err != nil {
				t.Fatal(err)
			}
			go b.Text(size, func([]byte) {
				looking <- struct{}{}
				<-done
			})
		}
		synctest.Wait()
		if got, most := len(looking), 2<<20/size; got != most {
			t.Errorf("%d bodies are copied at once, want %d", got, most)
		}
		close(done)
		synctest.Wait()
		if len(looking) != 100 {
			t.Errorf("%d bodies were looked at, want all 100", len(looking))
		}
	})
}
