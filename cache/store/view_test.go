package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A view appears atomically, and only when all of its objects are whole.
func TestViews(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	o := put(t, s, 30, 10)
	_, absent := contents(31, 10)
	for name, v := range map[string]View{
		"absent":  {Name: "v", Objects: map[string]string{"a": o.ID, "b": absent.ID}},
		"outside": {Name: "v", Objects: map[string]string{"../a": o.ID}},
		"name":    {Name: "../v", Objects: map[string]string{"a": o.ID}},
	} {
		if at, err := s.Publish(v); err == nil {
			t.Errorf("%s: published at %s", name, at)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "views")); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
	at, err := s.Publish(View{Name: "v", Objects: map[string]string{"hub/blobs/x": o.ID}, Links: map[string]string{"hub/snapshots/1/a": "../../blobs/x"}, Texts: map[string]string{"hub/refs/main": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := contents(30, 10)
	if got, err := os.ReadFile(filepath.Join(at, "hub/snapshots/1/a")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Pin("task", "v"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, Options{})
	if s.View("v") != at || len(s.Pins()["task"]) != 1 {
		t.Errorf("after a restart the view is at %q, the pins are %v", s.View("v"), s.Pins())
	}
	s.Close()
	if err := os.Remove(filepath.Join(dir, "objects", o.ID)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if s.View("v") != "" {
		t.Error("a view without its objects is there")
	}
}

// Two models that become whole at once are both pinned.
func TestPinsOfOneOwnerAddUp(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	o := put(t, s, 1, 10)
	var views []string
	for i := range 20 {
		name := fmt.Sprint("v", i)
		if _, err := s.Publish(View{Name: name, Objects: map[string]string{"f": o.ID}}); err != nil {
			t.Fatal(err)
		}
		views = append(views, name)
	}
	var group sync.WaitGroup
	for _, name := range views {
		group.Go(func() {
			if err := s.PinAlso("task", name); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := s.Pins()["task"]; len(got) != len(views) {
		t.Errorf("pinned are %v", got)
	}
	// The space of a pinned object cannot be used for others.
	free := open(t, t.TempDir(), Options{Capacity: 100})
	o = put(t, free, 1, 10)
	if got := free.Stats().Room; got != 100 {
		t.Errorf("there is room for %d bytes, want 100", got)
	}
	if _, err := free.Publish(View{Name: "v", Objects: map[string]string{"f": o.ID}}); err != nil {
		t.Fatal(err)
	}
	if err := free.PinAlso("task", "v"); err != nil {
		t.Fatal(err)
	}
	if got := free.Stats().Room; got != 90 {
		t.Errorf("there is room for %d bytes, want 90", got)
	}
	if err := s.PinAlso("task", "nothing"); !errors.Is(err, ErrAbsent) {
		t.Errorf("a view that is not here is pinned: %v", err)
	}
}
