package intake

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func roomy(t testing.TB) *Store {
	return NewStore(Limits{Each: 1 << 20, Memory: 1 << 20, Disk: 1 << 24, Dir: t.TempDir()})
}

// Whatever is taken, opened and opened again: the body is given as it came, and
// nothing is left when it is freed.
func TestABodyIsGivenAsItCame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(0, 300<<10).Draw(rt, "size")
		text := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		s := NewStore(Limits{
			Each:   int64(rapid.IntRange(1, 400<<10).Draw(rt, "each")),
			Memory: int64(rapid.IntRange(0, 1<<20).Draw(rt, "memory")), Disk: 1 << 20, Dir: t.TempDir(),
		})
		var rest io.Reader = bytes.NewReader(text)
		rest = rapid.SampledFrom([]func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.DataErrReader, iotest.HalfReader,
		}).Draw(rt, "reader")(rest)
		length := rapid.SampledFrom([]int64{-1, int64(size)}).Draw(rt, "length")
		b := s.Body(rest, length)
		if err := b.Take(); err != nil {
			rt.Fatal(err)
		}
		if b.Size() > s.limits.Each || b.Size() < min(int64(size), s.limits.Each) {
			rt.Fatalf("%d bytes are kept of %d, the limit is %d", b.Size(), size, s.limits.Each)
		}
		if kept, err := io.ReadAll(b.Kept()); err != nil || !bytes.Equal(kept, text[:b.Size()]) {
			rt.Fatalf("kept are %d bytes, %v", len(kept), err)
		}
		begun := int64(rapid.IntRange(0, size).Draw(rt, "begun"))
		io.CopyN(io.Discard, b.Open(), begun)
		switch again := b.Open(); {
		case again == nil && begun <= b.Size():
			rt.Fatalf("cannot begin again after %d of %d kept bytes", begun, b.Size())
		case again != nil:
			if got, err := io.ReadAll(again); err != nil || !bytes.Equal(got, text) || !b.Ended() {
				rt.Fatalf("got %d of %d bytes, %v", len(got), size, err)
			}
		}
		b.Free()
		if memory, disk := s.held(); memory != 0 || disk != 0 {
			rt.Fatalf("%d bytes of memory and %d of disk are left", memory, disk)
		}
	})
}

func TestALargeBodyLeavesMemoryToSmallOnes(t *testing.T) {
	s := roomy(t)
	large := s.Body(strings.NewReader(strings.Repeat("x", 900<<10)), -1)
	if err := large.Take(); err != nil {
		t.Fatal(err)
	}
	if memory, disk := s.held(); memory != 0 || disk != 900<<10 {
		t.Errorf("%d bytes of memory and %d of disk are held", memory, disk)
	}
	if files, _ := os.ReadDir(s.limits.Dir); len(files) != 0 {
		t.Errorf("the file has the name %s", files[0].Name())
	}
	for range 15 {
		b := s.Body(strings.NewReader(strings.Repeat("x", 60<<10)), 60<<10)
		if err := b.Take(); err != nil || b.file != nil {
			t.Fatalf("a small body: %v, in a file: %t", err, b.file != nil)
		}
	}
}

func TestThereIsNoRoomBeyondTheLimits(t *testing.T) {
	for name, l := range map[string]Limits{
		"no files":          {Each: 1 << 20, Memory: 32 << 10},
		"a full disk":       {Each: 1 << 20, Memory: 32 << 10, Disk: 64 << 10, Dir: t.TempDir()},
		"no such directory": {Each: 1 << 20, Memory: 32 << 10, Disk: 1 << 20, Dir: "/none"},
	} {
		s := NewStore(l)
		b := s.Body(strings.NewReader(strings.Repeat("x", 100<<10)), -1)
		if err := b.Take(); !errors.Is(err, ErrFull) {
			t.Errorf("%s: %v", name, err)
		}
		b.Free()
		if memory, disk := s.held(); memory != 0 || disk != 0 {
			t.Errorf("%s: %d bytes of memory and %d of disk are left", name, memory, disk)
		}
	}
}

// Memory follows what was sent, not what was declared.
func TestDeclaredLengthsTakeNoMemory(t *testing.T) {
	s := NewStore(Limits{Each: 32 << 20, Memory: 64 << 20})
	for range 16000 {
		b := s.Body(io.MultiReader(strings.NewReader("a little"), iotest.ErrReader(errors.New("nothing more"))), 1<<30)
		b.Take()
	}
	if memory, _ := s.held(); memory > 16000*2048 {
		t.Errorf("%d bytes are held for 16,000 bodies that sent 8 each", memory)
	}
}

func TestTheFirstMessageOfAStreamIsEnough(t *testing.T) {
	pr, pw := io.Pipe()
	go pw.Write([]byte("\x00\x00\x00\x01\x00" + strings.Repeat("m", 256)))
	b := roomy(t).Body(pr, -1)
	if err := b.TakeMessage(); err != nil || b.Size() != 261 {
		t.Fatalf("%d bytes, %v", b.Size(), err)
	}
	pw.Close()
	// The end of the body is no part of it: it can be given again.
	if text, err := io.ReadAll(b.Open()); err != nil || len(text) != 261 || b.Open() == nil {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func TestAnEarlierAttemptTakesNothingFromALaterOne(t *testing.T) {
	s := NewStore(Limits{Each: 4, Memory: 1 << 20})
	b := s.Body(strings.NewReader("kept and the rest"), -1)
	if err := b.Take(); err != nil {
		t.Fatal(err)
	}
	first, second := b.Open(), b.Open()
	if text, err := io.ReadAll(first); err == nil || string(text) != "kept" {
		t.Errorf("the first attempt got %q, %v", text, err)
	}
	if text, err := io.ReadAll(second); err != nil || string(text) != "kept and the rest" {
		t.Errorf("the second attempt got %q, %v", text, err)
	}
}

func TestAStoppedBodyIsNotRead(t *testing.T) {
	pr, pw := io.Pipe()
	b := roomy(t).Body(pr, -1)
	o := b.Open()
	reading := make(chan error)
	go func() {
		_, err := o.Read(make([]byte, 1))
		reading <- err
	}()
	for !b.busy() {
		runtime.Gosched()
	}
	b.Stop(func() { pw.CloseWithError(errors.New("aborted")) })
	if err := <-reading; err == nil {
		t.Error("the read under way returned no error")
	}
	if _, err := o.Read(make([]byte, 1)); err == nil {
		t.Error("a stopped body can be read")
	}
}

// held is how many bytes are kept in memory and in files.
func (s *Store) held() (memory, disk int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory, s.disk
}

func (b *Body) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reading
}
