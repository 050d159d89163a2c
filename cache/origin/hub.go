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

// Hub reads repositories of the Hugging Face Hub, or of a server with the same protocol. A source
// is hf://<name>@<commit>/<path>; the name of a dataset begins with "datasets/", and that of a
// Space with "spaces/".
type Hub struct {
	// Endpoint is the server's URL, without a trailing slash.
	Endpoint string
	Client   *http.Client
	// Token is used for clients without their own; "" for none.
	Token string

	mu     sync.Mutex
	signed map[string]signed
}

// signed is a signed URL of a file, which grants access for a limited time.
type signed struct {
	at    string
	until time.Time
}

// signedTTL is how long a signed URL is used. The Hub signs for one hour.
const signedTTL = 45 * time.Minute

// maxResponse bounds an API response, in bytes.
const maxResponse = 64 << 20

var commit = regexp.MustCompile(`^[0-9a-f]{40}$`)

// IsCommit reports whether a revision is a commit, which never changes.
func IsCommit(revision string) bool { return commit.MatchString(revision) }

// Kind splits a repository's name into its kind, as in API paths, and its ID: "datasets" and "o/n"
// for "datasets/o/n", "models" and "o/n" for "o/n".
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

// Anonymous reports whether a request with this token is sent without any.
func (h *Hub) Anonymous(asker string) bool { return h.token(asker) == "" }

// Ask sends a GET request to the API. The path begins with /api.
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
	body, err = io.ReadAll(io.LimitReader(res.Body, maxResponse))
	return body, res.Header, err
}

// Refusal is an error of the Hub with the code and message that its clients read.
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

// Info is the Hub's answer about one revision of a repository.
type Info struct {
	// Commit is the commit that the revision names.
	Commit string
	// Answer is the complete answer.
	Answer []byte
}

// Info asks the Hub about a revision.
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
		return nil, fmt.Errorf("the Hub's answer about %s has no commit", name)
	}
	return &Info{answer.SHA, body}, nil
}

// Tree lists all files and folders of a commit, over all pages.
func (h *Hub) Tree(ctx context.Context, name, sha, token string) (entries []json.RawMessage, err error) {
	kind, id := Kind(name)
	path := "/api/" + kind + "/" + id + "/tree/" + sha + "?recursive=true&expand=false"
	for page := 0; path != ""; page++ {
		if page == maxPages {
			return nil, fmt.Errorf("the Hub's list of the files of %s has more than %d pages", name, maxPages)
		}
		body, header, err := h.Ask(ctx, path, token)
		if err != nil {
			return nil, err
		}
		var more []json.RawMessage
		if err := json.Unmarshal(body, &more); err != nil {
			return nil, fmt.Errorf("cannot read the Hub's list of the files of %s: %w", name, err)
		}
		entries = append(entries, more...)
		path = h.next(header.Get("Link"))
	}
	return entries, nil
}

// maxPages bounds the pages of a tree. The Hub's pages have 1000 entries.
const maxPages = 1000

var nextLink = regexp.MustCompile(`<([^>]+)>;\s*rel="next"`)

// next returns the path of the next page, or "" on the last. It drops the host, which may be
// another name of the endpoint, so that the token is sent only to the endpoint.
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

// Source returns the source of a file in a commit.
func Source(name, sha, path string) string { return "hf://" + name + "@" + sha + "/" + path }

// resolve returns the path of a source on the server.
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

// Open reads a part of a file. If the Hub redirects to a signed URL, later requests go there
// directly until the URL expires.
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
		delete(h.signed, key) // the URL has expired early
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
	res, err := h.Client.Do(r) // follows redirects, but sends the token only to the Hub's host
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

// maxSigned bounds the signed URLs that are cached.
const maxSigned = 10000

func (h *Hub) remember(key, at string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.signed == nil || len(h.signed) >= maxSigned {
		h.signed = map[string]signed{}
	}
	h.signed[key] = signed{at, time.Now().Add(signedTTL)}
}

// Entry is a file or folder of a tree, with the fields that the cache reads.
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

// Object returns the object of a file, named by its SHA-256 if it is in Git LFS, else by its Git
// object ID.
func (e Entry) Object() (blob.Object, error) {
	o := blob.Object{ID: "git-" + e.OID, Size: e.Size}
	if e.LFS != nil {
		o = blob.Object{ID: "sha256-" + e.LFS.OID, Size: e.LFS.Size}
	}
	return o, o.Check()
}

// Files returns the files of a tree.
func Files(name, sha string, tree []json.RawMessage) (files []File, err error) {
	for _, raw := range tree {
		var e Entry
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, fmt.Errorf("cannot read a file in the Hub's list: %w", err)
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
