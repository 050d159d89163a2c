package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// View is a directory of whole objects and links, for a read-only mount.
type View struct {
	// Name is the name of its directory below views.
	Name string
	// Objects maps paths in the view to object IDs.
	Objects map[string]string
	// Links maps paths to the targets of symbolic links, and Texts maps paths to the contents of
	// small files.
	Links, Texts map[string]string
}

// manifest is the file in a view's directory that lists the view's objects.
const manifest = ".objects.json"

// Publish creates a view atomically, if all of its objects are whole. A view never changes. Its
// files are hard links, so it takes no space.
func (s *Store) Publish(v View) (path string, err error) {
	path = s.path("views", v.Name)
	if !safeName(v.Name) {
		return "", fmt.Errorf("view %q: invalid name", v.Name)
	}
	ids := slices.AppendSeq([]string{}, maps.Values(v.Objects))
	slices.Sort(ids)
	ids = slices.Compact(ids)
	there, release, err := s.claim(v.Name, ids)
	if there || err != nil {
		return path, err
	}
	defer release()
	// A view may have a hundred thousand files, so the lock is not held here.
	tmp, err := os.MkdirTemp(s.path("tmp"), "view-")
	if err != nil {
		return "", noRoom(err)
	}
	defer os.RemoveAll(tmp)
	if err := s.fill(tmp, v, ids); err != nil {
		return "", fmt.Errorf("view %s: %w", v.Name, noRoom(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.views[v.Name] != nil {
		return path, nil // another goroutine has published it
	}
	if err := errors.Join(os.Chmod(tmp, 0o755), os.Rename(tmp, path), syncDir(s.path("views"))); err != nil {
		return "", err
	}
	s.views[v.Name] = ids
	return path, nil
}

// claim keeps the objects of a new view from being evicted until release is called. there is true
// if the view exists already.
func (s *Store) claim(name string, ids []string) (there bool, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.views[name] != nil {
		return true, nil, nil
	}
	held := make([]*entry, len(ids))
	for i, id := range ids {
		if held[i] = s.whole[id]; held[i] == nil {
			return false, nil, fmt.Errorf("view %s: object %s: %w", name, id, ErrAbsent)
		}
	}
	for i, e := range held {
		e.open++
		s.touch(ids[i], e)
	}
	return false, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range held {
			e.open--
		}
	}, nil
}

// fill writes the files of a view into a directory.
func (s *Store) fill(dir string, v View, ids []string) error {
	list, _ := json.Marshal(ids)
	if err := writeSynced(filepath.Join(dir, manifest), list); err != nil {
		return err
	}
	place := func(at string) (string, error) {
		if !filepath.IsLocal(at) {
			return "", fmt.Errorf("%q is outside the view", at)
		}
		to := filepath.Join(dir, at)
		return to, os.MkdirAll(filepath.Dir(to), 0o755)
	}
	for at, id := range v.Objects {
		to, err := place(at)
		if err == nil {
			err = os.Link(s.path("objects", id), to)
		}
		if err != nil {
			return err
		}
	}
	for at, target := range v.Links {
		to, err := place(at)
		if err == nil {
			err = os.Symlink(target, to)
		}
		if err != nil {
			return err
		}
	}
	for at, text := range v.Texts {
		to, err := place(at)
		if err == nil {
			err = writeSynced(to, []byte(text))
		}
		if err != nil {
			return err
		}
	}
	return syncTree(dir)
}

// syncTree syncs the directories of a new view, so that its names survive a crash. Its objects were
// synced before.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(path)
	})
}

// writeSynced writes a small file and syncs it.
func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// View returns the path of a view, "" if there is none. It counts as a use of the view's objects.
func (s *Store) View(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := s.views[name]
	if ids == nil {
		return ""
	}
	for _, id := range ids {
		if e := s.whole[id]; e != nil {
			s.touch(id, e)
		}
	}
	return s.path("views", name)
}

// Views lists the names of all views.
func (s *Store) Views() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.views {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Pin keeps views from being evicted, across restarts, until Unpin is called for the same owner. It
// replaces the owner's earlier pins.
func (s *Store) Pin(owner string, views ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pin(owner, views)
}

// PinAlso adds a view to an owner's pins.
func (s *Store) PinAlso(owner, view string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	views := s.pins[owner]
	if slices.Contains(views, view) {
		return nil
	}
	return s.pin(owner, append(slices.Clone(views), view))
}

// pin writes an owner's pins to disk. The caller holds the lock.
func (s *Store) pin(owner string, views []string) error {
	if !safeName(owner) {
		return fmt.Errorf("pin owner %q: invalid name", owner)
	}
	for _, name := range views {
		if s.views[name] == nil {
			return fmt.Errorf("view %s: %w", name, ErrAbsent)
		}
	}
	text, _ := json.Marshal(views)
	if err := s.WriteFile(s.path("pins", owner), text); err != nil {
		return noRoom(err)
	}
	s.pins[owner] = views
	return nil
}

// Unpin removes all pins of an owner.
func (s *Store) Unpin(owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[owner] == nil {
		return nil
	}
	if err := os.Remove(s.path("pins", owner)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(s.pins, owner)
	return nil
}

// Pins returns the views by owner.
func (s *Store) Pins() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	pins := map[string][]string{}
	for owner, views := range s.pins {
		pins[owner] = slices.Clone(views)
	}
	return pins
}

// pinned returns the objects that pins protect. The caller holds the lock.
func (s *Store) pinned() map[string]bool {
	kept := map[string]bool{}
	for _, views := range s.pins {
		for _, v := range views {
			for _, id := range s.views[v] {
				kept[id] = true
			}
		}
	}
	return kept
}

// readViews reads views and pins. It removes views that lack an object.
func (s *Store) readViews() error {
	entries, err := os.ReadDir(s.path("views"))
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	for _, e := range entries {
		var ids []string
		text, err := os.ReadFile(s.path("views", e.Name(), manifest))
		if err == nil {
			err = json.Unmarshal(text, &ids)
		}
		if err != nil || slices.ContainsFunc(ids, func(id string) bool { return s.whole[id] == nil }) {
			if err := os.RemoveAll(s.path("views", e.Name())); err != nil {
				return fmt.Errorf("cache directory: %w", err)
			}
			continue
		}
		s.views[e.Name()] = ids
	}
	owners, err := os.ReadDir(s.path("pins"))
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	for _, e := range owners {
		var views []string
		text, err := os.ReadFile(s.path("pins", e.Name()))
		if err == nil && json.Unmarshal(text, &views) == nil && !strings.HasPrefix(e.Name(), ".") {
			s.pins[e.Name()] = slices.DeleteFunc(views, func(v string) bool { return s.views[v] == nil })
		}
	}
	return nil
}

// removeViewsOf removes the views that contain an object. The caller holds the lock.
func (s *Store) removeViewsOf(id string) error {
	for name, ids := range s.views {
		if !slices.Contains(ids, id) {
			continue
		}
		// Renaming makes the view disappear atomically.
		tmp := s.path("tmp", "gone-"+name)
		if err := os.Rename(s.path("views", name), tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("evict: %w", err)
		}
		delete(s.views, name)
		if err := os.RemoveAll(tmp); err != nil {
			return fmt.Errorf("evict: %w", err)
		}
	}
	return nil
}
