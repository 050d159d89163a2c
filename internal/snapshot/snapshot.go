// Package snapshot packs a directory that a container writes, and unpacks it for another.
// It takes regular files and folders alone: the container may put links, devices and pipes
// there, and may change them at any moment.
package snapshot

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aliquot.example/internal/compiled"
	"aliquot.example/internal/host"
)

// Limits bound a snapshot.
type Limits struct {
	Files int
	Bytes int64
}

// ErrTooLarge is the error of a directory beyond its limits.
var ErrTooLarge = errors.New("too large for a snapshot")

// errShorter is the error of a file that a program writes meanwhile.
var errShorter = errors.New("it became shorter while it was read")

// Look returns what a directory holds, without reading its files.
func Look(ctx context.Context, dir string, l Limits) (t compiled.Tree, err error) {
	root, err := open(dir)
	if err != nil {
		return t, err
	}
	defer root.Close()
	h := sha256.New()
	err = walk(ctx, root, l, func(_ *os.Root, name string, info fs.FileInfo) error {
		if info.Mode().IsRegular() {
			t.Files++
			t.Bytes += info.Size()
		}
		fmt.Fprintf(h, "%d:%s %d %o %d,", len(name), name, info.Size(), info.Mode(), info.ModTime().UnixNano())
		return nil
	})
	t.Sum = hex.EncodeToString(h.Sum(nil))
	return t, err
}

// Pack writes a directory as a tar archive. Holes of its files take no room in it.
func Pack(ctx context.Context, w io.Writer, dir string, l Limits) error {
	root, err := open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	out := tar.NewWriter(w)
	err = walk(ctx, root, l, func(in *os.Root, name string, info fs.FileInfo) error {
		if info.IsDir() {
			return out.WriteHeader(header(name, info))
		}
		return packFile(ctx, out, in, name)
	})
	return errors.Join(err, out.Close())
}

// header says of a file what a cache needs: compilers compare times.
func header(name string, info fs.FileInfo) *tar.Header {
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX,
		Typeflag: tar.TypeReg, Size: info.Size()}
	if info.IsDir() {
		h.Name, h.Typeflag, h.Size = name+"/", tar.TypeDir, 0
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		h.Uid, h.Gid = int(s.Uid), int(s.Gid)
	}
	return h
}

// packFile writes a file, if it still is one. It is looked at before it is opened, by one
// and the same descriptor: opening a device has effects.
func packFile(ctx context.Context, out *tar.Writer, in *os.Root, name string) error {
	seen, err := in.OpenFile(path.Base(name), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer seen.Close()
	info, err := seen.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(host.Running.Path("proc", "self", "fd", strconv.Itoa(int(seen.Fd()))))
	if err != nil {
		return err
	}
	defer f.Close()
	h := header(name, info)
	extents, sum := extentsOf(f, info.Size())
	holes(h, extents, sum)
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	if err := writeData(ctx, out, f, extents); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Unpack writes an archive's files and folders into an empty directory.
func Unpack(ctx context.Context, r io.Reader, dir string, l Limits) error {
	root, err := open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var folders []*tar.Header
	in, bytes := tar.NewReader(r), int64(0)
	for files := 0; ; files++ {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		size, extents, err := extentsIn(h)
		if err != nil {
			return err
		}
		if bytes += size; files >= l.Files || size < 0 || bytes > l.Bytes {
			return fmt.Errorf("%w: more than %d files or %d bytes", ErrTooLarge, l.Files, l.Bytes)
		}
		name, err := inside(h.Name)
		if err != nil {
			return err
		}
		h.Name = name
		switch h.Typeflag {
		case tar.TypeDir:
			folders = append(folders, h)
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = unpackFile(ctx, root, in, h, size, extents)
		default:
			err = fmt.Errorf("the archive's %q is neither file nor folder", h.Name)
		}
		if err != nil {
			return err
		}
	}
	return restoreFolders(root, folders)
}

// inside returns the clean name of an archive's member, which must be below its root.
func inside(member string) (string, error) {
	name := path.Clean(member)
	if name == "." || strings.HasPrefix(name, "../") || path.IsAbs(name) {
		return "", fmt.Errorf("the archive names %q, which is outside of it", member)
	}
	return name, nil
}

// restoreFolders gives folders their modes and times, inner ones first: what is written
// into a folder changes its time.
func restoreFolders(root *os.Root, folders []*tar.Header) error {
	for i := len(folders) - 1; i >= 0; i-- {
		if err := restoreMeta(root, folders[i]); err != nil {
			return err
		}
	}
	return nil
}

func unpackFile(ctx context.Context, root *os.Root, in io.Reader, h *tar.Header, size int64, extents []extent) error {
	if err := root.MkdirAll(path.Dir(h.Name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err = errors.Join(readData(ctx, f, in, size, extents), f.Close()); err != nil {
		return err
	}
	return restoreMeta(root, h)
}

// restoreMeta gives a file the owner, rights and time of its header, and no further rights.
func restoreMeta(root *os.Root, h *tar.Header) error {
	return errors.Join(root.Lchown(h.Name, h.Uid, h.Gid), root.Chmod(h.Name, fs.FileMode(h.Mode).Perm()),
		root.Chtimes(h.Name, h.ModTime, h.ModTime))
}
