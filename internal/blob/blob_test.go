package blob

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The chunks of an object cover it without gap or overlap.
func TestChunksCoverTheObject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Object{Size: rapid.Int64Range(0, 100*ChunkSize).Draw(t, "size")}
		at := int64(0)
		for n := range o.Chunks() {
			offset, length := o.Span(n)
			if offset != at || length < 1 || length > ChunkSize {
				t.Fatalf("chunk %d is %d+%d, after %d", n, offset, length, at)
			}
			at += length
		}
		if at != o.Size {
			t.Fatalf("the chunks end at %d of %d", at, o.Size)
		}
		from := rapid.Int64Range(0, o.Size).Draw(t, "from")
		to := rapid.Int64Range(from, o.Size+5).Draw(t, "to")
		first, end := o.Covering(from, to)
		for n := range o.Chunks() {
			offset, length := o.Span(n)
			if in, want := n >= first && n < end, offset < to && offset+length > from; from < min(to, o.Size) && in != want {
				t.Fatalf("[%d,%d) of %d: chunk %d is in: %v", from, to, o.Size, n, in)
			}
		}
	})
}

// The largest size that a number can hold has chunks as any other.
func TestChunksOfTheLargestObject(t *testing.T) {
	o := Object{Size: math.MaxInt64}
	if n := o.Chunks(); n != 1<<40 {
		t.Errorf("%d chunks", n)
	}
	if offset, length := o.Span(o.Chunks() - 1); offset+length != o.Size {
		t.Errorf("the last chunk has %d bytes at %d", length, offset)
	}
	if first, end := o.Covering(0, o.Size); first != 0 || end != o.Chunks() {
		t.Errorf("it is covered by %d to %d", first, end)
	}
}

func peersOf(t *rapid.T) []string {
	return rapid.SliceOfNDistinct(rapid.StringMatching(`10\.0\.[0-9]{1,2}\.[0-9]{1,3}:7000`), 1, 12, rapid.ID[string]).Draw(t, "peers")
}

// Owners do not depend on the order in which peers are known, and all peers are among
// them.
func TestOwnersAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peers := peersOf(t)
		id, chunk := rapid.String().Draw(t, "id"), rapid.IntRange(0, 9999).Draw(t, "chunk")
		got := Owners(id, chunk, peers)
		if shuffled := rapid.Permutation(peers).Draw(t, "shuffled"); !slices.Equal(Owners(id, chunk, shuffled), got) {
			t.Fatalf("another order of peers changes the owners")
		}
		if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(peers))) {
			t.Fatalf("of %v only %v are left", peers, got)
		}
	})
}

// When a peer is down, its own chunks alone move, and not all to one other.
func TestChunksOfAPeerThatIsDownAreSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peers := peersOf(t)
		gone := rapid.SampledFrom(peers).Draw(t, "gone")
		to := map[string]bool{}
		for chunk := range 400 {
			got := Owners("o", chunk, peers)
			if got[0] == gone && len(got) > 1 {
				to[got[1]] = true
			}
			if got[0] == gone || len(peers) == 1 {
				continue
			}
			// A node that is not the owner asks the owner, whoever is down beside it.
			self := peers[slices.IndexFunc(peers, func(p string) bool { return p != got[0] })]
			if route := Route(self, "o", chunk, peers, map[string]bool{gone: true}); route[0] != got[0] {
				t.Fatalf("chunk %d of %s is asked of %v", chunk, got[0], route)
			}
		}
		if len(peers) > 3 && len(to) < len(peers)/2 {
			t.Fatalf("all chunks of %s of %d fall to %v", gone, len(peers), to)
		}
	})
}

// Of the chunks from the beginning of a row on, no peer owns two more than another.
func TestOwnersShareEvenly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peers := peersOf(t)
		first := row * rapid.IntRange(0, 100).Draw(t, "row")
		count := map[string]int{}
		for n := range row {
			count[Owners("sha256-abc", first+n, peers)[0]]++
			least, most := row, 0
			for _, p := range peers {
				least, most = min(least, count[p]), max(most, count[p])
			}
			if most-least > 1 {
				t.Fatalf("of %d chunks one peer owns %d and one %d", n+1, most, least)
			}
		}
	})
}

// A route never leads to the node itself or to a peer that is down, and all nodes that
// see the same peers up end at the same owner: so the origin is read once.
func TestRoutesLeadToOneReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peers := peersOf(t)
		down := map[string]bool{}
		for _, p := range rapid.SliceOfN(rapid.SampledFrom(peers), 0, len(peers)-1).Draw(t, "down") {
			down[p] = true
		}
		readers := map[string]bool{}
		for _, self := range peers {
			if down[self] {
				continue
			}
			route := Route(self, "o", 3, peers, down)
			for _, p := range route {
				if p == self || down[p] {
					t.Fatalf("%s asks %v", self, route)
				}
			}
			if len(route) > 0 {
				readers[route[0]] = true
			} else {
				readers[self] = true
			}
		}
		if len(readers) > 1 {
			t.Fatalf("%v read one chunk from the origin", readers)
		}
	})
}

// Every chunk that is wanted is chosen once, and the first is the one under a reader.
func TestNextServesAllWants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wants := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Want {
			next := rapid.IntRange(0, 40).Draw(t, "next")
			return Want{next, rapid.IntRange(next, 50).Draw(t, "end")}
		}), 0, 4).Draw(t, "wants")
		taken := map[int]bool{}
		for _, n := range rapid.SliceOf(rapid.IntRange(0, 50)).Draw(t, "held") {
			taken[n] = true
		}
		open := func() (n int) {
			for c := range 51 {
				if !taken[c] && slices.ContainsFunc(wants, func(w Want) bool { return c >= w.Next && c < w.End }) {
					n++
				}
			}
			return n
		}
		for left := open(); left > 0; left-- {
			n, i, ok := Next(wants, func(c int) bool { return taken[c] })
			if !ok || taken[n] || n < wants[i].Next || n >= wants[i].End {
				t.Fatalf("%d of want %d, %v, with %d left", n, i, ok, left)
			}
			for _, w := range wants {
				if first := w.Next; first < w.End && !taken[first] && n-wants[i].Next > 0 {
					t.Fatalf("chunk %d is read ahead while a reader waits for %d", n, first)
				}
			}
			taken[n] = true
		}
		if n, _, ok := Next(wants, func(c int) bool { return taken[c] }); ok {
			t.Fatalf("chunk %d is chosen and nobody waits for it", n)
		}
	})
}

// What is evicted is enough, is not kept, and nothing that is kept longer was used
// before it; none of it could stay.
func TestEvictTakesTheOldest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Entry {
			return Entry{Size: rapid.Int64Range(1, 100).Draw(t, "size"), Used: rapid.Int64Range(0, 9).Draw(t, "used"), Kept: rapid.Bool().Draw(t, "kept")}
		}), 0, 20).Draw(t, "entries")
		byID := map[string]Entry{}
		free := int64(0)
		for i := range entries {
			entries[i].ID = fmt.Sprint(i)
			byID[entries[i].ID] = entries[i]
			if !entries[i].Kept {
				free += entries[i].Size
			}
		}
		need := rapid.Int64Range(-5, 800).Draw(t, "need")
		victims, ok := Evict(entries, need)
		if ok != (free >= need) || !ok && victims != nil {
			t.Fatalf("%d of %d bytes: %v %v", need, free, victims, ok)
		}
		sum, last := int64(0), Entry{}
		for _, id := range victims {
			e := byID[id]
			if e.Kept || e.Used < last.Used || sum >= need {
				t.Fatalf("evicts %+v after %+v, %d of %d bytes free", e, last, sum, need)
			}
			sum, last = sum+e.Size, e
		}
		if ok && sum < need {
			t.Fatalf("%d of %d bytes are freed", sum, need)
		}
	})
}

func TestObjectsAreChecked(t *testing.T) {
	for id, good := range map[string]bool{
		"sha256-" + strings.Repeat("0a", 32): true, "git-" + strings.Repeat("0a", 20): true, "name-" + strings.Repeat("0a", 32): true,
		"sha256-" + strings.Repeat("0A", 32): false, "sha256-" + strings.Repeat("0a", 20): false, "git-../../../../etc/passwd": false, "": false, "md5-" + strings.Repeat("0a", 16): false,
	} {
		if err := (Object{ID: id}).Check(); (err == nil) != good {
			t.Errorf("%s: %v", id, err)
		}
	}
	if (Object{ID: "git-" + strings.Repeat("0a", 20), Size: -1}).Check() == nil {
		t.Error("a negative size passes")
	}
}

func TestRefs(t *testing.T) {
	for text, want := range map[string]Ref{
		"hf://Qwen/Qwen3-4B@main":   {"hf", "Qwen/Qwen3-4B", "main"},
		"hf://gpt2":                 {"hf", "gpt2", "main"},
		"hf://a/b@refs/pr/1":        {"hf", "a/b", "refs/pr/1"},
		"s3://bucket/prefix/":       {"s3", "bucket/prefix/", "main"},
		"oci://ghcr.io/o/m@v1":      {"oci", "ghcr.io/o/m", "v1"},
		"oci://ghcr.io/o/m:v1":      {"oci", "ghcr.io/o/m", "v1"},
		"oci://reg:5000/o/m":        {"oci", "reg:5000/o/m", "latest"},
		"file:///srv/models/a":      {"file", "/srv/models/a", "main"},
		"https://example.com/m.bin": {"https", "example.com/m.bin", "main"},
	} {
		got, err := ParseRef(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := ParseRef(got.String()); err != nil || again != got {
			t.Errorf("%s is written as %s: %+v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "Qwen/Qwen3", "ftp://x/y", "hf://", "hf://a/../b", "hf://a//b", "hf://a/b@", "hf://a/b@../x", "hf://a b/c", "hf://a/b?x", "file:///a/../b", "hf://a/b/c/d", "https://user:secret@host/m.gguf"} {
		if got, err := ParseRef(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("hf://Qwen/Qwen3-4B@main")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRef(text)
		if err != nil {
			return
		}
		if again, err := ParseRef(r.String()); err != nil || again != r {
			t.Fatalf("%q is %+v, and then %+v, %v", text, r, again, err)
		}
	})
}

func TestSums(t *testing.T) {
	sha, git, md5 := strings.Repeat("a1", 32), strings.Repeat("c3", 20), strings.Repeat("b2", 16)
	for text, want := range map[string]Sum{
		"sha256:" + sha: {"sha256", sha, 0}, "git:" + git: {"git", git, 0}, "md5:" + md5: {"md5", md5, 0}, "md5:" + md5 + ":8388608": {"md5", md5, 8388608},
	} {
		got, err := ParseSum(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if got := (Object{ID: "name-" + sha, Sum: text}).Checksum(); got != want {
			t.Errorf("a named object with the sum %s is checked against %+v", text, got)
		}
	}
	for id, want := range map[string]Sum{"sha256-" + sha: {"sha256", sha, 0}, "git-" + git: {"git", git, 0}, "name-" + sha: {}} {
		if got := (Object{ID: id}).Checksum(); got != want {
			t.Errorf("%s is checked against %+v", id, got)
		}
	}
	for _, text := range []string{"", "md5", "git:" + sha, "git:" + git + ":5", "md5:", "md5:" + sha, "sha256:" + md5, "sha256:" + sha + ":5", "md5:" + md5 + ":0", "md5:" + md5 + ":-1", "md5:" + md5 + ":x", "md5:" + strings.ToUpper(md5), "crc32:" + md5, "md5:" + strings.Repeat("zz", 16)} {
		if got, err := ParseSum(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
		if err := (Object{ID: "name-" + sha, Size: 1, Sum: text}).Check(); (err == nil) != (text == "") {
			t.Errorf("an object with the sum %q: %v", text, err)
		}
	}
}
