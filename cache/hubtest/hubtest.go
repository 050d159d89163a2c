// Package hubtest is a fake Hugging Face Hub for tests and benchmarks, with repositories of
// generated files, signed URLs, and the failures of the real Hub. It counts the bytes of files that
// it sends.
package hubtest

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Hub is a fake Hub. Change its fields with Set while it runs.
type Hub struct {
	URL string
	cdn string // a different host, as at the real Hub

	mu    sync.Mutex
	repos map[string]*repo
	// Token is the required token, "" for none. With Private every request needs it, otherwise only
	// requests for files, as at the real Hub for gated repositories.
	Token   string
	Private bool
	// Down answers every request with 503; Limit answers that many requests with 429.
	Down  bool
	Limit int
	// Cut ends an answer after that many bytes. Cuts is the number of answers to end.
	Cut, Cuts int
	// Stall delays all files until it is closed, Lists all lists of files.
	Stall, Lists chan struct{}
	// Page is the number of entries in a page of a tree; 0 for 3. The real Hub has 1000.
	Page int
	// Endless makes the list of files endless.
	Endless bool
	// Expired is the number of signed URLs that are rejected once, with 403.
	Expired int
	// Corrupt flips a byte of every answer. Longer is the number of bytes by which the tree
	// overstates the size of LFS files.
	Corrupt bool
	Longer  int

	// Sending is the number of answers with a file in progress.
	Sending int

	changed  chan struct{}     // closed by the next change of what was sent
	lfs      map[string][]byte // by SHA-256
	read     map[string]int64  // bytes by path of the file
	requests []string
	signed   int

	listed string // key of list
	list   []map[string]any
}

type repo struct {
	revisions map[string]string // branch to commit
	commits   map[string]map[string]File
}

// File is a file of a repository. LFS stores it in Git LFS.
type File struct {
	Body []byte
	LFS  bool
	oid  string // SHA-256 for an LFS file, otherwise the Git object ID
}

// Start starts a fake Hub. The caller must call the returned function.
func Start() (*Hub, func()) {
	h, stop, err := StartAt("127.0.0.1")
	if err != nil {
		panic(err) // as httptest does
	}
	return h, stop
}

// StartAt is like Start, on a given host.
func StartAt(host string) (h *Hub, stop func(), err error) {
	h = &Hub{repos: map[string]*repo{}, lfs: map[string][]byte{}, read: map[string]int64{}}
	var servers []*httptest.Server
	stop = func() {
		for _, s := range servers {
			s.CloseClientConnections()
			s.Close()
		}
	}
	for _, handler := range []http.Handler{h, http.HandlerFunc(h.signedFile)} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			stop()
			return nil, nil, err
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
		s.Start()
		servers = append(servers, s)
	}
	h.URL, h.cdn = servers[0].URL, servers[1].URL
	return h, stop, nil
}

// Set changes fields of the Hub.
func (h *Hub) Set(change func(h *Hub)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

// Push adds a commit to a branch, and returns it.
func (h *Hub) Push(name, branch string, files map[string]File) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repos[name]
	if r == nil {
		r = &repo{map[string]string{}, map[string]map[string]File{}}
		h.repos[name] = r
	}
	for path, f := range files {
		f.oid = GitOID(f.Body)
		if f.LFS {
			f.oid = SHA256(f.Body)
			h.lfs[f.oid] = f.Body
		}
		files[path] = f
	}
	sum := sha1.New()
	fmt.Fprint(sum, name, branch, len(r.commits))
	sha := hex.EncodeToString(sum.Sum(nil))
	r.revisions[branch], r.commits[sha] = sha, files
	return sha
}

// Bytes generates the contents of a file, the same for the same seed.
func Bytes(seed uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// Read returns the number of bytes of files that were sent.
func (h *Hub) Read() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Sent()
}

// Sent is like Read, for functions that Set and Await call with the lock held.
func (h *Hub) Sent() (sum int64) {
	for _, n := range h.read {
		sum += n
	}
	return sum
}

// Delete removes a repository with its files.
func (h *Hub) Delete(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, files := range h.repos[name].commits {
		for _, f := range files {
			delete(h.lfs, f.oid)
		}
	}
	delete(h.repos, name)
}

// Await waits until the condition holds, and reports whether it does before the limit. It checks it
// whenever more was sent.
func (h *Hub) Await(limit time.Duration, ok func(h *Hub) bool) bool {
	late := time.After(limit)
	for {
		h.mu.Lock()
		if ok(h) {
			h.mu.Unlock()
			return true
		}
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-late:
			return false
		}
	}
}

// note counts sent bytes, and wakes those who wait in Await.
func (h *Hub) note(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// Requests returns the methods and paths of all requests since the last call.
func (h *Hub) Requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.requests
	h.requests = nil
	return all
}

// commitOf returns the commit of a branch.
func commitOf(r *repo, revision string) string {
	if sha := r.revisions[revision]; sha != "" {
		return sha
	}
	if r.commits[revision] != nil {
		return revision
	}
	return ""
}

func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/-/read" { // for tests in another process
		fmt.Fprintln(w, h.Read())
		return
	}
	if !h.refuses(w, r) {
		h.serve(w, r)
	}
}

// refuses answers a request with an error while the Hub is down, limits requests or requires
// another token. It reports whether it did.
func (h *Hub) refuses(w http.ResponseWriter, r *http.Request) bool {
	h.mu.Lock()
	h.requests = append(h.requests, r.Method+" "+r.URL.RequestURI())
	down, limited := h.Down, h.Limit > 0
	refused := h.Token != "" && r.Header.Get("Authorization") != "Bearer "+h.Token &&
		(h.Private || !strings.HasPrefix(r.URL.Path, "/api/"))
	if limited {
		h.Limit--
	}
	h.mu.Unlock()
	switch {
	case down:
		http.Error(w, "down", http.StatusServiceUnavailable)
	case limited:
		w.Header().Set("Retry-After", "0")
		http.Error(w, "slow down", http.StatusTooManyRequests)
	case refused:
		w.Header().Set("X-Error-Code", "GatedRepo")
		w.Header().Set("X-Error-Message", "Access to this model is restricted.")
		http.Error(w, "gated", http.StatusUnauthorized)
	}
	return down || limited || refused
}

// serve answers from the repositories.
func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	path, api := strings.CutPrefix(r.URL.EscapedPath(), "/api/models/")
	words := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, word := range words {
		words[i], _ = url.PathUnescape(word)
	}
	if len(words) < 4 {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	repo := h.repos[words[0]+"/"+words[1]]
	h.mu.Unlock()
	if repo == nil {
		w.Header().Set("X-Error-Code", "RepoNotFound")
		http.NotFound(w, r)
		return
	}
	sha := commitOf(repo, words[3])
	if sha == "" {
		w.Header().Set("X-Error-Code", "RevisionNotFound")
		http.NotFound(w, r)
		return
	}
	w.Header().Set("X-Repo-Commit", sha)
	switch {
	case api && words[2] == "revision":
		h.revision(w, words[0]+"/"+words[1], sha, repo.commits[sha])
	case api && words[2] == "tree":
		h.tree(w, r, sha, repo.commits[sha])
	case !api && words[2] == "resolve":
		h.resolve(w, r, strings.Join(words[4:], "/"), repo.commits[sha])
	default:
		http.NotFound(w, r)
	}
}

func (h *Hub) revision(w http.ResponseWriter, name, sha string, files map[string]File) {
	type sibling struct {
		Name string `json:"rfilename"`
	}
	siblings := []sibling{}
	for _, path := range sorted(files) {
		siblings = append(siblings, sibling{path})
	}
	h.mu.Lock()
	private, gated := h.Private, any(false)
	if h.Token != "" && !private {
		gated = "manual"
	}
	h.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"id": name, "modelId": name, "sha": sha, "private": private,
		"gated": gated, "siblings": siblings})
}

func sorted(files map[string]File) []string {
	var all []string
	for path := range files {
		all = append(all, path)
	}
	sort.Strings(all)
	return all
}

// page is the default of Hub.Page. It is small, so that every test reads several pages.
const page = 3

// entries returns the entries of a tree. It caches the last tree, because clients read it page by
// page.
func (h *Hub) entries(sha string, files map[string]File, longer int) []map[string]any {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := fmt.Sprint(sha, longer)
	if h.listed == key {
		return h.list
	}
	entries, folders := []map[string]any{}, map[string]bool{}
	for _, path := range sorted(files) {
		for i := range path {
			if folder := path[:i]; path[i] == '/' && !folders[folder] {
				folders[folder] = true
				entries = append(entries, map[string]any{"type": "directory", "path": folder,
					"oid": strings.Repeat("0", 40), "size": 0})
			}
		}
		f := files[path]
		e := map[string]any{"type": "file", "path": path, "oid": f.oid, "size": len(f.Body)}
		if f.LFS {
			e["oid"] = strings.Repeat("1", 40)
			e["lfs"] = map[string]any{"oid": f.oid, "size": len(f.Body) + longer, "pointerSize": 135}
			e["xetHash"] = strings.Repeat("ab", 32)
		}
		entries = append(entries, e)
	}
	h.listed, h.list = key, entries
	return entries
}

func (h *Hub) tree(w http.ResponseWriter, r *http.Request, sha string, files map[string]File) {
	h.mu.Lock()
	longer, wait, endless, size := h.Longer, h.Lists, h.Endless, cmp.Or(h.Page, page)
	h.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
	}
	entries := h.entries(sha, files, longer)
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	end := min(from+size, len(entries))
	if endless {
		from, end = 0, 0
	}
	if end < len(entries) {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?recursive=true&cursor=%d>; rel="next"`, h.URL,
			r.URL.EscapedPath(), end))
	}
	_ = json.NewEncoder(w).Encode(entries[from:end])
}

// SHA256 returns the SHA-256 of contents in hex, the Hub's name of an LFS file.
func SHA256(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// GitOID returns the Git object ID of contents.
func GitOID(b []byte) string {
	s := sha1.New()
	fmt.Fprintf(s, "blob %d\x00", len(b))
	s.Write(b)
	return hex.EncodeToString(s.Sum(nil))
}

func (h *Hub) resolve(w http.ResponseWriter, r *http.Request, path string, files map[string]File) {
	f, ok := files[path]
	if !ok {
		w.Header().Set("X-Error-Code", "EntryNotFound")
		http.NotFound(w, r)
		return
	}
	if f.LFS {
		sum := f.oid
		w.Header().Set("X-Linked-Etag", `"`+sum+`"`)
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(f.Body)))
		w.Header().Set("X-Xet-Hash", strings.Repeat("ab", 32))
		w.Header().Set("Link", `<`+h.URL+`/api/xet>; rel="xet-auth"`)
		h.mu.Lock()
		h.signed++
		at := fmt.Sprintf("%s/%s?signature=%d", h.cdn, sum, h.signed)
		h.mu.Unlock()
		w.Header().Set("Location", at)
		w.WriteHeader(http.StatusFound)
		return
	}
	w.Header().Set("ETag", `"`+f.oid+`"`)
	h.send(w, r, path, f.Body)
}

// signedFile serves the other host, which ignores tokens.
func (h *Hub) signedFile(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		http.Error(w, "a token was sent to another host", http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	expired := h.Expired > 0
	if expired {
		h.Expired--
	}
	sum := strings.TrimPrefix(r.URL.Path, "/")
	body := h.lfs[sum]
	down := h.Down
	h.mu.Unlock()
	switch {
	case down:
		http.Error(w, "down", http.StatusServiceUnavailable)
	case expired:
		http.Error(w, "expired", http.StatusForbidden)
	case body == nil:
		http.NotFound(w, r)
	default:
		h.send(w, r, sum, body)
	}
}
