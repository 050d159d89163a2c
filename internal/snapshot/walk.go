package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxDepth is how many folders may lie within each other: no compiler makes nearly as many.
const maxDepth = 64

// open opens a directory for good. A link in its place, or in that of the folder above, may
// not lead out of the one above both.
func open(dir string) (*os.Root, error) {
	folder := filepath.Dir(dir)
	above, err := os.OpenRoot(filepath.Dir(folder))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	return above.OpenRoot(filepath.Join(filepath.Base(folder), filepath.Base(dir)))
}

// walker visits folders and regular files. Whatever the container puts there, it reads no
// more names than the limits allow, and holds one descriptor for each level.
type walker struct {
	ctx    context.Context
	limits Limits
	seen   int
	bytes  int64
	visit  visitor
}

// visitor is given the folder that something is in, its whole name, and what it is.
type visitor func(in *os.Root, name string, info fs.FileInfo) error

// walk visits in the order of names, until the context ends. What goes meanwhile is passed
// over.
func walk(ctx context.Context, root *os.Root, l Limits, visit visitor) error {
	w := walker{ctx: ctx, limits: l, visit: visit}
	return w.folder(root, "", 0)
}

func (w *walker) folder(in *os.Root, above string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: more than %d folders within each other", ErrTooLarge, maxDepth)
	}
	names, err := w.names(in)
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.one(in, base, path.Join(above, base), depth); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// names reads the names in a folder, of whatever kind.
func (w *walker) names(in *os.Root) (names []string, err error) {
	f, err := in.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for w.ctx.Err() == nil {
		some, err := f.Readdirnames(256)
		if w.seen += len(some); w.seen > w.limits.Files {
			return nil, w.tooLarge()
		}
		for _, name := range some {
			names = append(names, strings.Clone(name))
		}
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, w.ctx.Err()
}

func (w *walker) one(in *os.Root, base, name string, depth int) error {
	info, err := in.Lstat(base)
	if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		return err
	}
	if !info.IsDir() {
		if w.bytes += info.Size(); w.bytes > w.limits.Bytes {
			return w.tooLarge()
		}
		return w.visit(in, name, info)
	}
	if err := w.visit(in, name, info); err != nil {
		return err
	}
	within, err := in.OpenRoot(base)
	if err != nil {
		return err
	}
	defer within.Close()
	return w.folder(within, name, depth+1)
}

func (w *walker) tooLarge() error {
	return fmt.Errorf("%w: more than %d files or %d bytes", ErrTooLarge, w.limits.Files, w.limits.Bytes)
}
