package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aliquot.example/internal/blob"
)

// Disk reads files below one directory, such as a mounted share.
type Disk struct{ Root string }

// below opens the root and returns the path relative to it. Paths and links cannot lead outside.
func (d Disk) below(source string) (*os.Root, string, error) {
	if d.Root == "" {
		return nil, "", fmt.Errorf("%w: files is not set in the cache's configuration", ErrDenied)
	}
	name, err := filepath.Rel(d.Root, strings.TrimPrefix(source, "file://"))
	if err != nil || !filepath.IsLocal(name) {
		return nil, "", fmt.Errorf("%w: the path is not below %s", ErrDenied, d.Root)
	}
	root, err := os.OpenRoot(d.Root)
	return root, name, missing(err)
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// Open reads a part of a file.
func (d Disk) Open(_ context.Context, source, _ string, o blob.Object, offset, length int64) (io.ReadCloser, error) {
	root, name, err := d.below(source)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, missing(err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() != o.Size {
		err = fmt.Errorf("%w: expected %d bytes, found %d", ErrChanged, o.Size, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}, nil
}

// List lists the files below a directory, or a single file.
func (d Disk) List(_ context.Context, ref blob.Ref, _ string) (*Listing, error) {
	root, name, err := d.below(ref.String())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	l := &Listing{Ref: ref, Public: true}
	var words []string
	err = fs.WalkDir(root.FS(), filepath.ToSlash(name), func(at string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := root.Stat(at) // follows links
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		source := "file://" + filepath.Join(d.Root, at)
		o := Named(info.Size(), source, info.ModTime().UTC().String())
		rel, err := filepath.Rel(name, at)
		if rel == "." {
			rel = filepath.Base(at)
		}
		l.Files = append(l.Files, File{Path: rel, Object: o, Source: source})
		words = append(words, rel, o.ID)
		return err
	})
	if err != nil {
		return nil, missing(err)
	}
	l.Revision = Named(0, words...).Digest()
	return l, nil
}
