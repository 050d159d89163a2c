package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var plenty = Limits{Files: 1000, Bytes: 1 << 20}

func make1(t *testing.T, dir, name, text string) {
	t.Helper()
	at := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	make1(t, from, "triton/a/kernel.so", "code")
	make1(t, from, "empty", "")
	when := time.Unix(1700000000, 123)
	for _, name := range []string{"triton/a/kernel.so", "triton/a"} {
		if err := os.Chtimes(filepath.Join(from, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(from, "triton/a/kernel.so"), 0o755|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	before, err := Look(from, plenty)
	if err != nil || before.Files != 2 || before.Bytes != 4 {
		t.Fatalf("%+v, %v", before, err)
	}
	var archive bytes.Buffer
	if err := Pack(&archive, from, plenty); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(&archive, to, plenty); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(to, "triton/a/kernel.so"))
	if err != nil || info.Mode() != 0o755 || !info.ModTime().Equal(when) {
		t.Errorf("%v %v, %v", info.Mode(), info.ModTime(), err)
	}
	if err := os.Chmod(filepath.Join(from, "triton/a/kernel.so"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(from, "triton/a/kernel.so"), when, when); err != nil {
		t.Fatal(err)
	}
	a, _ := Look(from, plenty)
	b, _ := Look(to, plenty)
	// Of folders that were not dated the time is that of the moment.
	if a.Files != b.Files || a.Bytes != b.Bytes {
		t.Errorf("%+v became %+v", a, b)
	}
}

// What a container can put into its directory beside files: the daemon opens none of it.
func TestLinksPipesAndDevicesStayOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes devices")
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	make1(t, dir, "kernel", "code")
	for _, err := range []error{
		os.Symlink(secret, filepath.Join(dir, "link")), os.Symlink("/etc", filepath.Join(dir, "folder")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644), unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o644, 1<<8|5),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if err := Pack(&archive, dir, plenty); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(archive.String(), "of the host") {
		t.Error("a link was followed")
	}
	for r := tar.NewReader(&archive); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		if h.Name != "kernel" {
			t.Errorf("%s is in the archive", h.Name)
		}
	}
	// As a container may replace a file between the look and the opening.
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"link", "pipe", "device", "gone"} {
		var out bytes.Buffer
		if err := packFile(tar.NewWriter(&out), root, name); err != nil || out.Len() > 0 {
			t.Errorf("%s: %d bytes, %v", name, out.Len(), err)
		}
	}
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	make1(t, dir, "a", "12345")
	make1(t, dir, "b", "12345")
	for _, l := range []Limits{{1, 100}, {10, 9}} {
		if _, err := Look(dir, l); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", l, err)
		}
		if err := Pack(&bytes.Buffer{}, dir, l); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", l, err)
		}
		var archive bytes.Buffer
		if err := Pack(&archive, dir, plenty); err != nil {
			t.Fatal(err)
		}
		if err := Unpack(&archive, t.TempDir(), l); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

// Whatever an archive says, nothing appears outside of the directory, and no link in it.
func FuzzUnpack(f *testing.F) {
	for _, h := range []tar.Header{
		{Name: "../up", Typeflag: tar.TypeReg}, {Name: "/etc/x", Typeflag: tar.TypeReg}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
		{Name: "d", Typeflag: tar.TypeChar}, {Name: "a/b", Typeflag: tar.TypeReg, Mode: 0o4777},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&h)
		w.Close()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(bytes.NewReader(archive), dir, plenty)
		if list, _ := os.ReadDir(top); len(list) != 1 {
			t.Errorf("%v lie beside the directory", list)
		}
		_ = filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !d.Type().IsRegular() {
				t.Errorf("%s is %v", at, d.Type())
			}
			return nil
		})
	})
}

// A container can put as many names and folders there as it likes, and a link in place of the
// folder itself: none of this costs the driver more than the limits allow.
func TestHostileFolders(t *testing.T) {
	links := t.TempDir()
	for i := range plenty.Files + 1 {
		if err := os.Symlink("/etc/passwd", filepath.Join(links, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Look(links, plenty); !errors.Is(err, ErrTooLarge) {
		t.Errorf("links beyond the limit: %v", err)
	}
	deep := t.TempDir()
	if err := os.MkdirAll(filepath.Join(deep, strings.Repeat("d/", deepest+2)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Pack(io.Discard, deep, plenty); !errors.Is(err, ErrTooLarge) {
		t.Errorf("folders beyond the limit: %v", err)
	}
	secret, task := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(secret, "shadow"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(task, "task", "compiled")
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, place); err != nil {
		t.Fatal(err)
	}
	if tree, err := Look(place, plenty); err == nil {
		t.Errorf("a link in place of the folder was followed: %+v", tree)
	}
}
