package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
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
	before, err := Look(t.Context(), from, plenty)
	if err != nil || before.Files != 2 || before.Bytes != 4 {
		t.Fatalf("%+v, %v", before, err)
	}
	var archive bytes.Buffer
	if err := Pack(t.Context(), &archive, from, plenty); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(t.Context(), &archive, to, plenty); err != nil {
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
	a, _ := Look(t.Context(), from, plenty)
	b, _ := Look(t.Context(), to, plenty)
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
	if err := Pack(t.Context(), &archive, dir, plenty); err != nil {
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
		if err := packFile(t.Context(), tar.NewWriter(&out), root, name); err != nil || out.Len() > 0 {
			t.Errorf("%s: %d bytes, %v", name, out.Len(), err)
		}
	}
}

// A file with holes takes no more room in an archive, and after it, than it did before.
func TestHolesTakeNoRoom(t *testing.T) {
	const size = 64 << 20
	limits := Limits{Files: 10, Bytes: 2 * size}
	from, to := t.TempDir(), t.TempDir()
	for _, name := range []string{"sparse", "empty"} {
		f, err := os.Create(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "sparse" {
			for _, at := range []int64{0, 5 << 20, size - 3} {
				if _, err := f.WriteAt([]byte("abc"), at); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if err := Pack(t.Context(), &archive, from, limits); err != nil {
		t.Fatal(err)
	}
	if archive.Len() > size/16 {
		t.Errorf("the archive has %d bytes", archive.Len())
	}
	if err := Unpack(t.Context(), &archive, to, limits); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sparse", "empty"} {
		before, err := os.ReadFile(filepath.Join(from, name))
		after, err2 := os.ReadFile(filepath.Join(to, name))
		if errors.Join(err, err2) != nil || !bytes.Equal(before, after) {
			t.Errorf("%s became another, %v", name, errors.Join(err, err2))
		}
		var disk unix.Stat_t
		if err := unix.Stat(filepath.Join(to, name), &disk); err != nil || disk.Blocks*512 > size/16 {
			t.Errorf("%s takes %d bytes, %v", name, disk.Blocks*512, err)
		}
	}
	// Its size counts all the same: whoever reads it has to read the holes.
	if _, err := Look(t.Context(), from, Limits{Files: 10, Bytes: size}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("two files of 64 MiB pass as 64 MiB: %v", err)
	}
}

// What an archive says of data and holes is checked, as the rest of it.
func TestHolesThatCannotBe(t *testing.T) {
	for _, words := range [][2]string{
		{"10", "0+4 8+4"}, {"-1", ""}, {"x", "0+4"}, {"10", "4+2 0+2"}, {"10", "0+2 1+2"}, {"10", "0+3"}, {"10", "0+9223372036854775807"}, {"10", "-1+4"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h := tar.Header{Name: "a", Typeflag: tar.TypeReg, Format: tar.FormatPAX, Size: 4, PAXRecords: map[string]string{sizeRecord: words[0], extentRecord: words[1]}}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("code"))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Unpack(t.Context(), &b, t.TempDir(), plenty); !errors.Is(err, errHoles) {
			t.Errorf("%q: %v", words, err)
		}
	}
}

// Who stops a task does not wait for the end of its folder.
func TestAnEndedContextEndsTheWork(t *testing.T) {
	dir := t.TempDir()
	make1(t, dir, "a/b", "code")
	var archive bytes.Buffer
	if err := Pack(t.Context(), &archive, dir, plenty); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, looked := Look(ctx, dir, plenty)
	for what, err := range map[string]error{"Look": looked, "Pack": Pack(ctx, io.Discard, dir, plenty), "Unpack": Unpack(ctx, &archive, t.TempDir(), plenty)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// In the middle of a file as well.
	root, err := os.OpenRoot(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := packFile(ctx, tar.NewWriter(io.Discard), root, "b"); !errors.Is(err, context.Canceled) {
		t.Errorf("a file: %v", err)
	}
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	make1(t, dir, "a", "12345")
	make1(t, dir, "b", "12345")
	for _, l := range []Limits{{1, 100}, {10, 9}} {
		if _, err := Look(t.Context(), dir, l); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", l, err)
		}
		if err := Pack(t.Context(), &bytes.Buffer{}, dir, l); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", l, err)
		}
		var archive bytes.Buffer
		if err := Pack(t.Context(), &archive, dir, plenty); err != nil {
			t.Fatal(err)
		}
		if err := Unpack(t.Context(), &archive, t.TempDir(), l); !errors.Is(err, ErrTooLarge) {
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
		_ = Unpack(t.Context(), bytes.NewReader(archive), dir, plenty)
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
	if _, err := Look(t.Context(), links, plenty); !errors.Is(err, ErrTooLarge) {
		t.Errorf("links beyond the limit: %v", err)
	}
	deep := t.TempDir()
	if err := os.MkdirAll(filepath.Join(deep, strings.Repeat("d/", maxDepth+2)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Pack(t.Context(), io.Discard, deep, plenty); !errors.Is(err, ErrTooLarge) {
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
	if tree, err := Look(t.Context(), place, plenty); err == nil {
		t.Errorf("a link in place of the folder was followed: %+v", tree)
	}
}
