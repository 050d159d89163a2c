package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/internal/blob"
)

func contents(seed byte, size int) ([]byte, blob.Object) {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	sum := sha256.Sum256(b)
	return b, blob.Object{ID: "sha256-" + hex.EncodeToString(sum[:]), Size: int64(size)}
}

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// write writes chunks of a partial object.
func write(t *testing.T, p *Partial, body []byte, chunks ...int) {
	t.Helper()
	for _, n := range chunks {
		offset, length := p.Object.Span(n)
		if err := p.Room(n); err != nil {
			t.Fatal(err)
		}
		part := body[offset : offset+length]
		if _, err := p.WriteAt(part, offset); err != nil {
			t.Fatal(err)
		}
		p.Done(n, crc32.Checksum(part, crc32.MakeTable(crc32.Castagnoli)), "")
	}
}

// put makes an object whole.
func put(t *testing.T, s *Store, seed byte, size int) blob.Object {
	t.Helper()
	body, o := contents(seed, size)
	p, err := s.Partial(o, true)
	if err != nil {
		t.Fatal(err)
	}
	for n := range o.Chunks() {
		write(t, p, body, n)
	}
	if err := p.Finish(); err != nil {
		t.Fatal(err)
	}
	p.Closed()
	return o
}

// Other users of the node cannot enter the store.
func TestTheStoreIsPrivate(t *testing.T) {
	parent := t.TempDir()
	for _, dir := range []string{filepath.Join(parent, "new"), filepath.Join(parent, "open")} {
		if filepath.Base(dir) == "open" { // made by hand, or by an earlier version
			if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		open(t, dir, Options{})
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
}

func TestAnObjectBecomesWhole(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	body, o := contents(1, 2*blob.ChunkSize+5)
	p, err := s.Partial(o, true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p, body, 2, 0)
	if _, err := s.Open(o.ID); !errors.Is(err, ErrAbsent) {
		t.Errorf("it is open before it is whole: %v", err)
	}
	if err := p.Finish(); err == nil || s.Has(o.ID) {
		t.Errorf("it is finished without chunk 1: %v", err)
	}
	write(t, p, body, 1)
	if err := p.Finish(); err != nil {
		t.Fatal(err)
	}
	p.Closed()
	f, err := s.Open(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if info, _ := f.Stat(); info.Mode().Perm() != 0o444 {
		t.Errorf("its mode is %v", info.Mode())
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) != 0 {
		t.Errorf("%v are left of the partial object", left)
	}
	if _, err := s.Partial(o, false); !errors.Is(err, ErrWhole) {
		t.Errorf("a whole object is fetched again: %v", err)
	}
}

// Wrong bytes never become the object; once they are replaced by the right ones, they do.
func TestWrongBytesAreNotPublished(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	body, o := contents(2, blob.ChunkSize+9)
	p, err := s.Partial(o, true)
	if err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Clone(body)
	wrong[blob.ChunkSize+1] ^= 1
	write(t, p, wrong, 0, 1)
	if err := p.Finish(); !errors.Is(err, ErrDigest) || s.Has(o.ID) {
		t.Fatalf("%v", err)
	}
	write(t, p, body, 1)
	p.Again()
	if err := p.Finish(); err != nil || !s.Has(o.ID) {
		t.Fatal(err)
	}
}

// Logged chunks survive a restart. A torn line and chunks that are not logged do not count.
func TestARestartKnowsTheChunks(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	body, o := contents(3, 3*blob.ChunkSize)
	p, err := s.Partial(o, false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p, body, 0, 2)
	s.Close()
	log := filepath.Join(dir, "partial", o.ID+".log")
	f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"n":1,"cr`)
	f.Close()

	s = open(t, dir, Options{})
	if p, err = s.Partial(o, true); err != nil {
		t.Fatal(err)
	}
	for n, c := range p.Chunks() {
		if c.Held != (n != 1) {
			t.Errorf("chunk %d is held: %v", n, c.Held)
		}
	}
	write(t, p, body, 1)
	if err := p.Finish(); err != nil {
		t.Error(err)
	}
}

// A full store evicts the least recently used objects, never those that are open, pinned or being
// fetched, and rejects what then does not fit.
func TestEviction(t *testing.T) {
	dir := t.TempDir()
	var gone []string
	s := open(t, dir, Options{Capacity: 100, Evicted: func(id string, _ int64) { gone = append(gone, id) }})
	a, b, c := put(t, s, 10, 30), put(t, s, 11, 30), put(t, s, 12, 30)
	f, err := s.Open(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(View{Name: "of-b", Objects: map[string]string{"files/b": b.ID}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Pin("task", "of-b"); err != nil {
		t.Fatal(err)
	}
	put(t, s, 13, 40)
	if len(gone) != 1 || gone[0] != c.ID {
		t.Fatalf("%v were evicted, want %s alone", gone, c.ID)
	}
	body, big := contents(14, 80)
	_ = body
	if _, err := s.Partial(big, true); !errors.Is(err, ErrNoRoom) || len(gone) != 1 {
		t.Errorf("%v; %v were evicted for what does not fit", err, gone)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) != 0 {
		t.Errorf("%v are left of what was refused", left)
	}
	f.Close()
	if err := s.Unpin("task"); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Partial(big, true); err != nil {
		t.Error(err)
	} else {
		p.Leave()
	}
	if s.View("of-b") != "" {
		t.Error("the view of an evicted object is there")
	}
	if _, err := os.Stat(filepath.Join(dir, "views", "of-b")); err == nil {
		t.Error("the directory of an evicted object's view is there")
	}
}

// An object that can never fit is rejected before any file is created, whatever size its origin
// states.
func TestWhatCannotFitIsRefused(t *testing.T) {
	for _, o := range []Options{{}, {KeepFree: 1 << 20}, {Capacity: 64 << 20}} {
		s := open(t, t.TempDir(), o)
		_, small := contents(1, 100)
		for _, size := range []int64{1 << 50, 1 << 62, math.MaxInt64} {
			huge := small
			huge.Size = size
			for _, reserve := range []bool{false, true} {
				if _, err := s.Partial(huge, reserve); !errors.Is(err, ErrNoRoom) {
					t.Errorf("%+v: %d bytes, reserved %v: %v", o, size, reserve, err)
				}
			}
			if _, err := s.Adopt(strings.NewReader(""), size); !errors.Is(err, ErrNoRoom) {
				t.Errorf("%+v: %d bytes as a snapshot: %v", o, size, err)
			}
		}
		if files, err := os.ReadDir(s.path("partial")); err != nil || len(files) > 0 {
			t.Errorf("%+v: %v, %v", o, files, err)
		}
	}
}

// A store opens with any contents: it removes partial objects that cannot fit.
func TestAPartialThatCannotFitIsRemoved(t *testing.T) {
	dir := t.TempDir()
	body, o := contents(1, 10<<20)
	s := open(t, dir, Options{})
	p, err := s.Partial(o, true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p, body, 0)
	p.Leave()
	s.Close()
	var said bytes.Buffer
	s = open(t, dir, Options{Capacity: 1 << 20, Log: slog.New(slog.NewTextHandler(&said, nil))})
	if n := s.Stats().Partials; n != 0 || !strings.Contains(said.String(), o.ID) {
		t.Errorf("%d partial objects, and the log is %q", n, said.String())
	}
	if files, err := os.ReadDir(s.path("partial")); err != nil || len(files) > 0 {
		t.Errorf("%v, %v", files, err)
	}
}

// Partial objects without readers take a bounded amount of memory.
func TestIdlePartialsAreFew(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range 4 {
		_, o := contents(byte(i), 100)
		p, err := s.begin(o)
		if err != nil {
			t.Fatal(err)
		}
		p.Object.Size, p.users = maxChunks/2*blob.ChunkSize, min(i, 1)
	}
	_, first := contents(0, 100)
	s.forgetIdle(maxChunks/2 + 1)
	if len(s.partials) != 3 || s.partials[first.ID] != nil {
		t.Errorf("%d of 3 are left that somebody reads", len(s.partials))
	}
}

// A reader can read a removed object to its end.
func TestAnOpenFileOutlivesItsRemoval(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	o := put(t, s, 20, 1000)
	f, err := s.Open(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(filepath.Join(dir, "objects", o.ID)); err != nil {
		t.Fatal(err)
	}
	want, _ := contents(20, 1000)
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := s.Open(o.ID); !errors.Is(err, ErrAbsent) {
		t.Errorf("what was removed by hand: %v", err)
	}
}

func TestOneProcessUsesADirectory(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "used by another process") {
		t.Errorf("a second one: %v", err)
	}
}
