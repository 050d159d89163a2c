package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"aliquot.example/internal/blob"
)

// Hub reads repositories of the Hugging Face Hub, or of a server that speaks its
// protocol. A source is hf://<name>@<commit>/<path>, where a dataset's name begins
// with "datasets/" and a Space's with "spaces/".
type Hub struct {
	// Endpoint is the server's URL, without a slash at the end.
	Endpoint string
	Client   *http.Client
	// Token is used where the asker has none; "" for none.
	Token string

	mu     sync.Mutex
	signed map[string]signed
}

// signed is where a file of the Hub lies: a URL that holds its own right for some time.
type signed struct {
	at    string
	until time.Time
}

// signedFor is how long such a URL is used. The Hub signs for an hour.
const signedFor = 45 * time.Minute

// longestAnswer bounds what is read of an answer of the API, in bytes.
const longestAnswer = 64 << 20

var commit = regexp.MustCompile(`^[0-9a-f]{40}$`)

// IsCommit reports whether a revision names one commit that never changes.
func IsCommit(revision string) bool { return commit.MatchString(revision) }

// Kind splits a repository's name in what the paths of the API call its kind, and the
// rest: "datasets" and "o/n" for "datasets/o/n", "models" and "o/n" for "o/n".
func Kind(name string) (kind, id string) {
	if first, rest, ok := strings.Cut(name, "/"); ok && (first == "datasets" || first == "spaces") {
		return first, rest
	}
	return "models", name
}

func (h *Hub) token(asker string) string {
	if asker == Nobody {
		return ""
	}
	if asker != "" {
		return asker
	}
	return h.Token
}

// Anonymous reports whether a request with the asker's token is made without any.
func (h *Hub) Anonymous(asker string) bool { return h.token(asker) == "" }

// Ask gets an answer of the API. The path begins with /api.
func (h *Hub) Ask(ctx context.Context, path, token string) (body []byte, header http.Header, err error) {
	at := path
	if !strings.Contains(path, "://") {
		at = h.Endpoint + path
	}
	r, err := newRequest(ctx, http.MethodGet, at, h.token(token))
	if err != nil {
		return nil, nil, err
	}
	res, err := h.Client.Do(r)
	if err != nil {
		return nil, nil, unwrapped(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, res.Header, named(res)
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, longestAnswer))
	return body, res.Header, err
}

// Refusal is a refusal of the Hub with the words that its clients read.
type Refusal struct {
	Status        int
	Code, Message string
	err           error
}

func (r *Refusal) Error() string { return r.err.Error() + " (" + r.Code + ")" }
func (r *Refusal) Unwrap() error { return r.err }

func named(res *http.Response) error {
	err := refusal(res)
	code := res.Header.Get("X-Error-Code")
	if !Final(err) {
		return err
	}
	return &Refusal{res.StatusCode, code, res.Header.Get("X-Error-Message"), err}
}

// Info is what the Hub says of one revision of a repository.
type Info struct {
	// Commit is the revision's.
	Commit string
	// Answer is the whole answer.
	Answer []byte
}

// Info asks for a revision.
func (h *Hub) Info(ctx context.Context, name, revision, token string) (*Info, error) {
	kind, id := Kind(name)
	body, _, err := h.Ask(ctx, "/api/"+kind+"/"+id+"/revision/"+url.PathEscape(revision), token)
	if err != nil {
		return nil, err
	}
	var answer struct {
		SHA string `json:"sha"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || !commit.MatchString(answer.SHA) {
		return nil, fmt.Errorf("the Hub's answer about %s names no commit", name)
	}
	return &Info{answer.SHA, body}, nil
}

// Tree asks for all files and folders of a commit, over as many pages as it has.
func (h *Hub) Tree(ctx context.Context, name, sha, token string) (entries []json.RawMessage, err error) {
	kind, id := Kind(name)
	path := "/api/" + kind + "/" + id + "/tree/" + sha + "?recursive=true&expand=false"
	for page := 0; path != ""; page++ {
		if page == mostPages {
			return nil, fmt.Errorf("the Hub's list of the files of %s has more than %d pages", name, mostPages)
		}
		body, header, err := h.Ask(ctx, path, token)
		if err != nil {
			return nil, err
		}
		var more []json.RawMessage
		if err := json.Unmarshal(body, &more); err != nil {
			return nil, fmt.Errorf("the Hub's list of the files of %s cannot be read: %w", name, err)
		}
		entries = append(entries, more...)
		path = h.next(header.Get("Link"))
	}
	return entries, nil
}

// mostPages bounds a tree. The Hub's pages have 1000 entries.
const mostPages = 1000

var nextLink = regexp.MustCompile(`<([^>]+)>;\s*rel="next"`)

// next is the path of the page after this one, "" on the last. Its host may be another
// name of the endpoint, and the token goes to the endpoint alone.
func (h *Hub) next(link string) string {
	m := nextLink.FindStringSubmatch(link)
	if m == nil {
		return ""
	}
	u, err := url.Parse(m[1])
	if err != nil {
		return ""
	}
	at := strings.Index(u.Path, "/api/")
	if at < 0 {
		return ""
	}
	return u.Path[at:] + "?" + u.RawQuery
}

// Source names a file of a commit.
func Source(name, sha, path string) string { return "hf://" + name + "@" + sha + "/" + path }

// resolve is the path of a source on the server.
func resolve(source string) (string, error) {
	name, rest, ok := strings.Cut(strings.TrimPrefix(source, "hf://"), "@")
	sha, path, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || !commit.MatchString(sha) {
		return "", fmt.Errorf("source %.200q: want hf://<name>@<commit>/<path>", source)
	}
	escaped := strings.Split(path, "/")
	for i, part := range escaped {
		escaped[i] = url.PathEscape(part)
	}
	return "/" + name + "/resolve/" + sha + "/" + strings.Join(escaped, "/"), nil
}

// Open reads a part of a file. Where the Hub redirects to a signed URL, that is asked
// directly until it lapses.
func (h *Hub) Open(ctx context.Context, source, token string, o blob.Object, offset,
	length int64) (io.ReadCloser, error) {
	key := h.token(token) + "\x00" + source
	h.mu.Lock()
	known, ok := h.signed[key]
	h.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		body, err := openRange(ctx, h.Client, known.at, "", o, offset, length)
		if err == nil || !errors.Is(err, ErrDenied) && !errors.Is(err, ErrNotFound) {
			return body, err
		}
		h.mu.Lock()
		delete(h.signed, key) // it has lapsed before its time
		h.mu.Unlock()
	}
	path, err := resolve(source)
	if err != nil {
		return nil, err
	}
	r, err := newRequest(ctx, http.MethodGet, h.Endpoint+path, h.token(token))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	res, err := h.Client.Do(r) // follows redirects; the token stays with the Hub's host
	if err != nil {
		return nil, unwrapped(err)
	}
	body, err := part(res, o, offset, length)
	if err != nil {
		res.Body.Close()
		return nil, err
	}
	if at := res.Request.URL; at.Host != r.URL.Host {
		h.remember(key, at.String())
	}
	return body, nil
}

// mostSigned bounds the URLs that are remembered.
const mostSigned = 10000

func (h *Hub) remember(key, at string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.signed == nil || len(h.signed) >= mostSigned {
		h.signed = map[string]signed{}
	}
	h.signed[key] = signed{at, time.Now().Add(signedFor)}
}

// Entry is a file or folder of a tree, as far as the cache reads it.
type Entry struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Size int64  `json:"size"`
	OID  string `json:"oid"`
	LFS  *struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	} `json:"lfs"`
}

// Object is the object of a file: by its SHA-256 where the Hub keeps it apart from Git,
// else by what Git calls it.
func (e Entry) Object() (blob.Object, error) {
	o := blob.Object{ID: "git-" + e.OID, Size: e.Size}
	if e.LFS != nil {
		o = blob.Object{ID: "sha256-" + e.LFS.OID, Size: e.LFS.Size}
	}
	return o, o.Check()
}

// Files reads the files of a tree.
func Files(name, sha string, tree []json.RawMessage) (files []File, err error) {
	for _, raw := range tree {
		var e Entry
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, fmt.Errorf("a file of the tree cannot be read: %w", err)
		}
		if e.Type != "file" {
			continue
		}
		o, err := e.Object()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Path, err)
		}
		files = append(files, File{Path: e.Path, Object: o, Source: Source(name, sha, e.Path)})
	}
	return files, nil
}
