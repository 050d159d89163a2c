package models

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// maxParsed bounds the records that are kept parsed, by the size of their text in bytes. A parsed
// record takes about three times as much memory. A repository with 100,000 files has a text of 40
// MB.
const maxParsed = 64 << 20

// parsed reads a record as JSON. Parsing the record of a large repository takes longer than the
// rest of a request for one of its files, so recently used records are kept parsed. Callers share
// what the result points to and must not change it.
func parsed[T any](r *records, name string) (T, error) {
	var none T
	before, kept := r.kept(name)
	if got, ok := kept.(T); ok {
		return got, nil
	}
	text, err := r.read(name)
	if err != nil {
		return none, err
	}
	var got T
	if err := json.Unmarshal(text, &got); err != nil {
		return none, err
	}
	r.keep(name, before, got)
	return got, nil
}

// kept returns a record and its parsed value, or nil if that is not kept. It counts as a use of the
// record.
func (r *records) kept(name string) (e *record, value any) {
	_, err := os.Stat(filepath.Join(r.dir, name)) // someone may have removed the file
	r.mu.Lock()
	defer r.mu.Unlock()
	if e = r.all[name]; e == nil || err != nil {
		return e, nil
	}
	if e.parsed != nil {
		r.use(name, e)
	}
	return e, e.parsed
}

// use records a use of a record. The caller holds the lock.
func (r *records) use(name string, e *record) {
	e.used = time.Now()
	if e.used.Sub(e.stamped) > stampRecords {
		e.stamped = e.used
		_ = os.Chtimes(filepath.Join(r.dir, name), e.used, e.used)
	}
}

// keep stores the parsed value of a record, unless the record was written in the meantime. It drops
// the least recently used values.
func (r *records) keep(name string, e *record, value any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e == nil || r.all[name] != e || e.parsed != nil || e.size > r.maxParsed {
		return
	}
	e.parsed = value
	r.parsedBytes += e.size
	for r.parsedBytes > r.maxParsed {
		var oldest *record
		for _, o := range r.all {
			if o != e && o.parsed != nil && (oldest == nil || o.used.Before(oldest.used)) {
				oldest = o
			}
		}
		r.unparse(oldest)
	}
}

// unparse drops the parsed value of a record. The caller holds the lock.
func (r *records) unparse(e *record) {
	if e.parsed != nil {
		r.parsedBytes -= e.size
		e.parsed = nil
	}
}
