package models

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/blob"
)

func testRecords(t *testing.T, dir string, most int, mostBytes int64) *records {
	t.Helper()
	put := func(path string, text []byte) error { return os.WriteFile(path, text, 0o644) }
	r, err := openRecords(dir, put, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.max, r.maxBytes = most, mostBytes
	return r
}

func repository(i int) blob.Ref { return blob.Ref{Scheme: "oci", Name: fmt.Sprintf("host/r/%d", i)} }

func files(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// However many names clients choose, a bounded number of records is kept, the most recently used
// ones, also across a restart.
func TestRecordsThatAreKeptAreFew(t *testing.T) {
	for what, bound := range map[string]struct {
		most  int
		bytes int64
	}{"by number": {20, 1 << 30}, "by size": {1 << 30, 20 * 5}} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			r := testRecords(t, dir, bound.most, bound.bytes)
			used := recordName(repository(0), "v1")
			for i := range 200 {
				if err := r.write(recordName(repository(i), "v1"), []byte("12345")); err != nil {
					t.Fatal(err)
				}
				if _, err := r.read(used); err != nil {
					t.Fatalf("what is in use is gone after %d: %v", i, err)
				}
				if n := files(t, dir); n > 20 {
					t.Fatalf("%d records are kept", n)
				}
			}
			if _, err := r.read(recordName(repository(199), "v1")); err != nil {
				t.Errorf("the last one: %v", err)
			}
			again := testRecords(t, dir, 1, 1)
			if len(again.all) != len(r.all) || again.bytes != r.bytes {
				t.Errorf("a restart knows %d records of %d bytes, not %d of %d", len(again.all), again.bytes, len(r.all), r.bytes)
			}
		})
	}
}

// The record that marks a repository as restricted exists as long as any other record of it, and no
// longer.
func TestRestrictionsStayWithTheirRepository(t *testing.T) {
	dir := t.TempDir()
	r := testRecords(t, dir, 10, 1<<30)
	first := repository(0)
	for _, what := range []string{"v1", "v2"} {
		if err := r.write(recordName(first, what), []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.write(restriction(first), nil); err != nil {
		t.Fatal(err)
	}
	marked := func() bool { _, err := os.Stat(filepath.Join(dir, restriction(first))); return err == nil }
	for i := 1; i < 50; i++ {
		if err := r.write(recordName(repository(i), "v1"), []byte("1")); err != nil {
			t.Fatal(err)
		}
		if marked() != r.of(restriction(first)) {
			t.Fatalf("after %d: the mark is there: %v, other records are: %v", i, marked(), r.of(restriction(first)))
		}
	}
	if marked() {
		t.Error("the mark outlives its repository")
	}
}

// Files of an earlier version, which had other IDs, are removed.
func TestRecordsOfAnEarlierVersionGo(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{digest("old") + ".json", recordName(repository(1), "v1")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "answers"), 0o700); err != nil {
		t.Fatal(err)
	}
	if r := testRecords(t, dir, 10, 1<<30); len(r.all) != 1 || files(t, dir) != 2 {
		t.Errorf("%d records, %d files", len(r.all), files(t, dir))
	}
}

// A bounded number of permissions is remembered.
func TestThoseWhoPassedAreFew(t *testing.T) {
	l := &Library{passed: map[string]time.Time{}}
	for i := range maxPassed {
		l.passed[fmt.Sprint(i)] = time.Now().Add(time.Duration(i-maxPassed) * time.Millisecond)
	}
	l.pass("last")
	if _, ok := l.passed["last"]; !ok || len(l.passed) > maxPassed {
		t.Errorf("%d are known, the last of them %v", len(l.passed), ok)
	}
	if _, ok := l.passed["0"]; ok {
		t.Error("the first one is still known")
	}
}

// Parsed values match their records, and their size stays within the bound.
func TestParsedRecords(t *testing.T) {
	r := testRecords(t, t.TempDir(), 100, 1<<30)
	r.maxParsed = 100
	name := func(i int) string { return recordName(repository(i), "v1") }
	write := func(i int, text string) {
		t.Helper()
		if err := r.write(name(i), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(i int, want []int) {
		t.Helper()
		if got, err := parsed[[]int](r, name(i)); err != nil || !slices.Equal(got, want) {
			t.Errorf("record %d is %v, %v; want %v", i, got, err, want)
		}
		sum := int64(0)
		for _, e := range r.all {
			if e.parsed != nil {
				sum += e.size
			}
		}
		if sum != r.parsedBytes || sum > r.maxParsed {
			t.Errorf("%d bytes are parsed, and %d counted", sum, r.parsedBytes)
		}
	}
	for i := range 50 {
		write(i, fmt.Sprintf("[%d,2,3]", i+10))
		want(i, []int{i + 10, 2, 3})
		want(0, []int{10, 2, 3}) // used last, so it stays
	}
	if r.all[name(0)].parsed == nil || r.all[name(10)].parsed != nil {
		t.Error("not those used last are kept")
	}
	write(0, "[7]")
	want(0, []int{7})
	write(1, "["+strings.Repeat("1,", 200)+"1]")
	if got, err := parsed[[]int](r, name(1)); err != nil || len(got) != 201 || r.all[name(1)].parsed != nil {
		t.Errorf("a record above the bound: %d, %v", len(got), err)
	}
	if err := os.Remove(filepath.Join(r.dir, name(0))); err != nil {
		t.Fatal(err)
	}
	if got, err := parsed[[]int](r, name(0)); err == nil {
		t.Errorf("a record that was removed by hand is %v", got)
	}
	if err := r.remove(name(2)); err != nil {
		t.Fatal(err)
	}
	if got, err := parsed[[]int](r, name(2)); err == nil {
		t.Errorf("a record that was removed is %v", got)
	}
}

// A record without a listing is an error, whatever the file has become.
func TestARecordWithoutAListing(t *testing.T) {
	l := &Library{records: testRecords(t, t.TempDir(), 10, 1<<20)}
	ref := repository(1)
	if err := l.records.write(recordName(ref, "@v1"), []byte("null")); err != nil {
		t.Fatal(err)
	}
	if got, err := l.load(ref, "v1"); err == nil {
		t.Errorf("it is %+v", got)
	}
}
