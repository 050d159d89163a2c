package models

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"aliquot.example/internal/blob"
)

const (
	// maxRecords and maxRecordBytes bound the number and the size of records, because clients
	// choose the names.
	maxRecords     = 50_000
	maxRecordBytes = 1 << 30
	// stampRecords is how old the time of use on disk may be before it is updated.
	stampRecords = time.Hour
	// half is how many digits of a record's name identify its repository, and how many its content.
	half = 32
)

// marker is the end of the names of records that mark a repository as restricted.
var marker = "-" + digest("?restricted")[:half] + ".json"

// records are the files in which a library keeps what origins said. The least recently used ones
// are evicted. The record that marks a repository as restricted stays as long as any other record
// of that repository. records is safe for concurrent use.
type records struct {
	dir        string
	put        func(path string, text []byte) error
	max        int
	maxBytes   int64
	log        *slog.Logger
	mu         sync.Mutex
	all        map[string]*record // by file name
	bytes      int64              // of all records
	repository map[string]int     // number of records by repository, without markers

	maxParsed, parsedBytes int64
}

type record struct {
	size          int64
	used, stamped time.Time
	parsed        any // the parsed value, nil if it is not kept
}

// openRecords lists the records in a directory, which it creates if necessary.
func openRecords(dir string, put func(path string, text []byte) error, log *slog.Logger) (*records, error) {
	r := &records{
		dir: dir, put: put, max: maxRecords, maxBytes: maxRecordBytes, maxParsed: maxParsed, log: log,
		all: map[string]*record{}, repository: map[string]int{},
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if !isRecord(e.Name()) {
			os.Remove(filepath.Join(dir, e.Name())) // from an earlier version with other IDs
			continue
		}
		r.add(e.Name(), info.Size(), info.ModTime())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evict("")
	return r, nil
}

func isRecord(name string) bool {
	return len(name) == 2*half+len("-.json") && name[half] == '-' && strings.HasSuffix(name, ".json")
}

// recordName returns the file name of a record about a repository.
func recordName(ref blob.Ref, what string) string {
	return digest(ref.Scheme, ref.Name)[:half] + "-" + digest(what)[:half] + ".json"
}

// add registers a record. The caller holds the lock, or no other goroutine uses r.
func (r *records) add(name string, size int64, used time.Time) {
	r.forget(name)
	r.all[name] = &record{size: size, used: used, stamped: used}
	r.bytes += size
	if !strings.HasSuffix(name, marker) {
		r.repository[name[:half]]++
	}
}

// forget unregisters a record. The caller holds the lock.
func (r *records) forget(name string) {
	e := r.all[name]
	if e == nil {
		return
	}
	delete(r.all, name)
	r.bytes -= e.size
	r.unparse(e)
	if repository := name[:half]; !strings.HasSuffix(name, marker) {
		if r.repository[repository]--; r.repository[repository] == 0 {
			delete(r.repository, repository)
		}
	}
}

// write writes a record, in place of an earlier one with the same name.
func (r *records) write(name string, text []byte) error {
	if err := r.put(filepath.Join(r.dir, name), text); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(name, int64(len(text)), time.Now())
	r.evict(name)
	return nil
}

// read reads a record, and counts as a use of it.
func (r *records) read(name string) ([]byte, error) {
	path := filepath.Join(r.dir, name)
	text, err := os.ReadFile(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.all[name]
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.forget(name) // someone removed the file by hand
	case err == nil && e != nil:
		r.use(name, e)
	}
	return text, err
}

// remove removes a record.
func (r *records) remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(name)
	return os.Remove(filepath.Join(r.dir, name))
}

// of reports whether there is any record of the same repository, apart from the marker.
func (r *records) of(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.repository[name[:half]] > 0
}

// evict removes records once a bound is exceeded, until a tenth of each bound is free. It never
// removes the record named but, which was just written. The caller holds the lock.
func (r *records) evict(but string) {
	if len(r.all) <= r.max && r.bytes <= r.maxBytes {
		return
	}
	var names []string
	for name := range r.all {
		if name != but && !strings.HasSuffix(name, marker) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(r.all[a].used.Compare(r.all[b].used), cmp.Compare(a, b))
	})
	for _, name := range names {
		if len(r.all) <= r.max*9/10 && r.bytes <= r.maxBytes/10*9 {
			break
		}
		r.drop(name)
		if repository := name[:half]; r.repository[repository] == 0 && r.all[repository+marker] != nil {
			r.drop(repository + marker)
		}
	}
}

// drop removes a record to make room. The caller holds the lock.
func (r *records) drop(name string) {
	r.forget(name)
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("cannot remove an old record of an origin's answer", "file", name, "error", err)
	}
}
