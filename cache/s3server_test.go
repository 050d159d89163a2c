package cache

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"aliquot.example/cache/s3"
)

// The keys of the bucket server.
const (
	accessKey = "AKIDOFTHETEST"
	secretKey = "a-secret-key-of-the-test"
)

// bucketServer is a server of S3 that asks for signatures, counts the bytes it sends, and
// fails on demand.
type bucketServer struct {
	*httptest.Server
	bucket  string
	backend gofakes3.Backend
	fake    http.Handler
	keys    *s3.Keys

	mu       sync.Mutex
	read     int64
	requests []string
	down     bool
	public   bool              // what is not signed is answered too
	cuts     int               // answers that break off in the middle
	corrupt  bool              // one byte of each answer is another
	tags     map[string]string // ETags by key, for what was uploaded in parts
	part     int64             // the size of these parts
	sums     map[string]string // SHA-256 by key, as S3 writes it
	cipher   string            // what objects are said to be encrypted with
}

func startBuckets(t *testing.T) *bucketServer {
	t.Helper()
	return startBucket(t, "models", accessKey, secretKey)
}

// startBucket starts a server with one bucket and the keys of its own.
func startBucket(t *testing.T, bucket, accessKey, secretKey string) *bucketServer {
	t.Helper()
	b := &bucketServer{bucket: bucket, backend: s3mem.New(), tags: map[string]string{}, sums: map[string]string{}}
	b.fake = gofakes3.New(b.backend).Server()
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, accessKey+" "+secretKey+" all\n")
	var err error
	if b.keys, err = s3.ReadKeys(path); err != nil {
		t.Fatal(err)
	}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	if err := b.backend.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *bucketServer) put(t *testing.T, key string, body []byte) {
	t.Helper()
	if _, err := b.backend.PutObject(b.bucket, key, map[string]string{"Last-Modified": time.Now().UTC().Format(http.TimeFormat)}, bytes.NewReader(body), int64(len(body)), nil); err != nil {
		t.Fatal(err)
	}
}

// inParts says that an object was uploaded in parts.
func (b *bucketServer) inParts(key string, body []byte, part int) {
	var digests []byte
	count := 0
	for rest := body; len(rest) > 0; count++ {
		n := min(part, len(rest))
		sum := md5.Sum(rest[:n])
		digests, rest = append(digests, sum[:]...), rest[n:]
	}
	all := md5.Sum(digests)
	b.set(func() { b.tags[key], b.part = fmt.Sprintf("%s-%d", hex.EncodeToString(all[:]), count), int64(part) })
}

func (b *bucketServer) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *bucketServer) bytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

func (b *bucketServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/"+b.bucket+"/")
	b.mu.Lock()
	open := b.public && r.Header.Get("Authorization") == ""
	down, cut, part := b.down, b.cuts > 0 && r.Method == http.MethodGet && r.Header.Get("Range") != "", b.part
	out := &tagged{ResponseWriter: w, server: b, etag: b.tags[key], sum: b.sums[key], cipher: b.cipher, corrupt: b.corrupt, object: key != r.URL.Path && key != ""}
	if cut {
		b.cuts--
		out.left = 1000
	}
	b.requests = append(b.requests, r.Method+" "+r.URL.RequestURI())
	b.mu.Unlock()
	if down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if _, err := b.keys.Verify(r, time.Now()); err != nil && !open {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>AccessDenied</Code></Error>")
		return
	}
	if r.URL.Query().Get("partNumber") == "1" && part > 0 {
		w.Header().Set("Content-Length", fmt.Sprint(part))
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"`+out.etag+`"`)
		w.WriteHeader(http.StatusPartialContent)
		return
	}
	b.fake.ServeHTTP(out, r)
	if !out.begun {
		out.WriteHeader(http.StatusOK)
	}
	if cut {
		panic(http.ErrAbortHandler)
	}
}

// tagged changes an answer.
type tagged struct {
	http.ResponseWriter
	server            *bucketServer
	etag, sum, cipher string
	corrupt, object   bool
	left              int // of an answer that breaks off
	begun             bool
}

func (w *tagged) WriteHeader(status int) {
	if w.begun {
		return
	}
	w.begun = true
	h := w.Header()
	if w.etag != "" && h.Get("ETag") != "" {
		h.Set("ETag", `"`+w.etag+`"`)
	}
	if w.sum != "" {
		h.Set("X-Amz-Checksum-Sha256", w.sum)
		h.Set("X-Amz-Checksum-Type", "FULL_OBJECT")
	}
	if w.cipher != "" {
		h.Set("X-Amz-Server-Side-Encryption", w.cipher)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *tagged) Write(p []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	whole := len(p)
	if w.left > 0 {
		p = p[:min(len(p), w.left)]
		if w.left -= len(p); w.left == 0 {
			w.left = 1
			p = p[:len(p)-1]
		}
	}
	if w.corrupt && w.object && len(p) > 0 {
		p = bytes.Clone(p)
		p[0] ^= 1
	}
	n, err := w.ResponseWriter.Write(p)
	if w.object {
		w.server.set(func() { w.server.read += int64(n) })
	}
	if err == nil {
		n = whole
	}
	return n, err
}
