package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/blob"
)

// A temporary disk failure does not keep an object from becoming whole later: logged chunks count,
// the others are fetched again.
func TestAFailureOfTheDiskPasses(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	body, o := contents(15, blob.ChunkSize+5)
	p, err := s.Partial(o, true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p, body, 0)
	p.rest() // the chunk is in the log
	p.mu.Unlock()
	p.log.Close() // the next line cannot be written
	write(t, p, body, 1)
	if err := p.Finish(); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("without a log: %v", err)
	}
	p.Leave()
	if p, err = s.Partial(o, true); err != nil {
		t.Fatal(err)
	}
	if held := p.Chunks(); !held[0].Held || held[1].Held {
		t.Errorf("%+v are held, want the first alone", held)
	}
	write(t, p, body, 1)
	if err := p.Finish(); err != nil || !s.Has(o.ID) {
		t.Errorf("after the failure has passed: %v", err)
	}
	p.Closed()
}

// smallDisk mounts a small file system. It skips the test if this process has no right to mount,
// and fails if mounting fails otherwise.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)
	if errors.Is(err, unix.EPERM) {
		t.Skip("mounting a small file system needs root with CAP_SYS_ADMIN")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A full disk is reported when space is reserved, before anything is fetched.
func TestAFullDisk(t *testing.T) {
	dir := smallDisk(t, "4m")
	s := open(t, dir, Options{})
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	_, o := contents(40, 3<<20) // it would fit without the other file
	if _, err := s.Partial(o, true); !errors.Is(err, ErrNoRoom) {
		t.Errorf("reserving: %v", err)
	}
	p, err := s.Partial(o, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Leave()
	if err := p.Room(0); !errors.Is(err, ErrNoRoom) {
		t.Errorf("room for a chunk: %v", err)
	}
	if _, err := p.WriteAt(make([]byte, 3<<20), 0); !errors.Is(err, ErrNoRoom) {
		t.Errorf("writing: %v", err)
	}
}

// If the disk fills up while a view is published, no part of the view remains, and it can be
// published once there is room.
func TestAFullDiskMakesNoHalfView(t *testing.T) {
	dir := smallDisk(t, "4m")
	s := open(t, dir, Options{})
	o := put(t, s, 41, 1<<20)
	hog, err := os.Create(filepath.Join(dir, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	defer hog.Close()
	if _, err := io.CopyN(hog, zeros{}, 8<<20); err == nil {
		t.Fatal("the disk does not fill up")
	}
	v := View{Name: "v", Objects: map[string]string{"files/a": o.ID}, Texts: map[string]string{".model": "hf://a/b"}}
	if at, err := s.Publish(v); !errors.Is(err, ErrNoRoom) {
		t.Errorf("published at %q, %v", at, err)
	}
	for _, folder := range []string{"views", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(dir, folder)); err != nil || len(left) != 0 {
			t.Errorf("%v are left in %s, %v", left, folder, err)
		}
	}
	if err := hog.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if at, err := s.Publish(v); err != nil || s.View("v") != at {
		t.Errorf("with room again: %q, %v", at, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// victim is the process that TestKill kills. It writes chunks without end and prints which ones are
// in the log.
func victim(dir string) {
	s, err := Open(dir, Options{})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	body, o := contents(50, 8*blob.ChunkSize)
	p, err := s.Partial(o, true)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	for n := range o.Chunks() {
		offset, length := o.Span(n)
		part := body[offset : offset+length]
		_, _ = p.WriteAt(part, offset)
		p.Done(n, crc32.Checksum(part, crc32.MakeTable(crc32.Castagnoli)), "")
		fmt.Println("written", n)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_VICTIM"); dir != "" {
		victim(dir)
		return
	}
	os.Exit(m.Run())
}

// After kill -9 at any moment, every logged chunk is correct, and the object can be completed.
func TestKill(t *testing.T) {
	body, o := contents(50, 8*blob.ChunkSize)
	for _, after := range []string{"written 0", "written 2", "written 6"} {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "STORE_VICTIM="+dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cmd.StdinPipe(); err != nil { // open for as long as the test runs
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != after; {
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			s := open(t, dir, Options{})
			p, err := s.Partial(o, true)
			if err != nil {
				t.Fatal(err)
			}
			for n, c := range p.Chunks() {
				offset, length := o.Span(n)
				got := make([]byte, length)
				if _, err := p.ReadAt(got, offset); err != nil {
					t.Fatal(err)
				}
				if right := bytes.Equal(got, body[offset:offset+length]); c.Held && !right {
					t.Errorf("chunk %d is in the log and wrong", n)
				}
				if !c.Held {
					write(t, p, body, n)
				}
			}
			if err := p.Finish(); err != nil {
				t.Error(err)
			}
		})
	}
}
