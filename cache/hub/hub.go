// Package hub implements the protocol of the Hugging Face Hub for unmodified clients, whose
// HF_ENDPOINT points to it. Files come through the node's cache.
package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/cache/models"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/serve"
	"aliquot.example/internal/blob"
)

// Handler is the HTTP handler.
type Handler struct {
	Library *models.Library
	// Token returns the token with which the cache asks the Hub for a client that sends the given
	// token, or "".
	Token func(scheme, name, namespace, given string) string
	Log   *slog.Logger
}

// ask is a parsed request.
type ask struct {
	verb     string // "resolve", "revision", "tree", "paths-info" or "" for the repository
	ref      blob.Ref
	path     string
	token    string
	rawQuery url.Values
}

// verbs are the path segments that end a repository's name, which has one or two segments.
var verbs = []string{"resolve", "revision", "tree", "paths-info"}

// read parses the escaped path, because a revision may contain an escaped slash and a file name any
// character.
func read(r *http.Request) (a ask, ok bool) {
	a.token = bearer(r)
	a.rawQuery = r.URL.Query()
	kind, rest, api, ok := kindOf(r.URL.EscapedPath())
	if !ok {
		return a, false
	}
	words := strings.Split(strings.TrimSuffix(rest, "/"), "/")
	id := words
	for at := 1; at <= 2 && at < len(words); at++ {
		if i := indexOf(verbs, words[at]); i >= 0 && at+1 < len(words) {
			a.verb, id = verbs[i], words[:at]
			words = words[at+1:]
			break
		}
	}
	if len(id) > 2 || api == (a.verb == "resolve") {
		return a, false
	}
	revision := "main"
	if a.verb != "" {
		for i, w := range words {
			words[i] = unescape(w)
		}
		revision, a.path = words[0], strings.Join(words[1:], "/")
	}
	name := strings.Join(id, "/")
	if kind == "datasets" || kind == "spaces" {
		name = kind + "/" + name
	}
	ref, err := blob.ParseRef("hf://" + name + "@" + revision)
	a.ref = ref
	return a, err == nil && (a.verb != "resolve" || a.path != "")
}

// kindOf splits a path into the kind of its repository, "" for a model outside of the API, and the
// rest.
func kindOf(path string) (kind, rest string, api, ok bool) {
	rest, api = strings.CutPrefix(path, "/api/")
	if api {
		kind, rest, _ = strings.Cut(rest, "/")
		return kind, rest, true, kind == "models" || kind == "datasets" || kind == "spaces"
	}
	rest = strings.TrimPrefix(path, "/")
	if first, after, ok := strings.Cut(rest, "/"); ok && (first == "datasets" || first == "spaces") {
		return first, after, false, true
	}
	return "", rest, false, true
}

func indexOf(all []string, word string) int {
	for i, w := range all {
		if w == word {
			return i
		}
	}
	return -1
}

func unescape(text string) string {
	if plain, err := url.PathUnescape(text); err == nil {
		return plain
	}
	return text
}

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// ServeHTTP serves a request. It answers 404 to unknown paths at once, because clients also request
// other things than models.
func (f *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, ok := read(r)
	if !ok {
		fail(w, r, http.StatusNotFound, "", "this cache has no such page")
		return
	}
	want := []string{http.MethodGet, http.MethodHead}
	if a.verb == "paths-info" {
		want = []string{http.MethodPost}
	}
	if indexOf(want, r.Method) < 0 {
		w.Header().Set("Allow", strings.Join(want, ", "))
		fail(w, r, http.StatusMethodNotAllowed, "", "this cache is read-only")
		return
	}
	a.token = f.Token("hf", a.ref.Name, "", a.token)
	listing, err := f.Library.List(r.Context(), a.ref, a.token)
	if err != nil {
		f.refuse(w, r, err)
		return
	}
	w.Header().Set("X-Repo-Commit", listing.Revision)
	switch a.verb {
	case "resolve":
		f.file(w, r, a, listing)
	case "tree":
		f.tree(w, r, a, listing)
	case "paths-info":
		f.pathsInfo(w, r, listing)
	default:
		answer(w, listing.Info)
	}
}

func answer(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

// fail sends an error with the headers by which clients distinguish errors.
func fail(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	h := w.Header()
	if code != "" {
		h.Set("X-Error-Code", code)
	}
	h.Set("X-Error-Message", message)
	body, _ := json.Marshal(map[string]string{"error": message})
	h.Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// refuse sends an error. If the origin does not answer or is busy, the status is 429, which clients
// retry. They give up on a 5xx.
func (f *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var named *origin.Refusal
	switch {
	case errors.As(err, &named):
		fail(w, r, named.Status, named.Code, oneLine(named.Message, err))
	case errors.Is(err, origin.ErrNotFound), errors.Is(err, models.ErrAsk):
		fail(w, r, http.StatusNotFound, "RepoNotFound", err.Error())
	case errors.Is(err, origin.ErrDenied):
		fail(w, r, http.StatusForbidden, "GatedRepo", err.Error())
	default:
		f.Log.Warn("asking a Hub client to retry", "path", r.URL.Path, "error", err)
		serve.RetryAfter(w.Header(), err)
		fail(w, r, http.StatusTooManyRequests, "", err.Error())
	}
}

func oneLine(message string, err error) string {
	if message != "" {
		return message
	}
	return err.Error()
}

// maxBody bounds a request body, in bytes.
const maxBody = 1 << 20

// pathsInfo lists which of the requested paths exist.
func (f *Handler) pathsInfo(w http.ResponseWriter, r *http.Request, l *models.Listing) {
	var asked struct {
		Paths []string `json:"paths"`
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err == nil && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		form, _ := url.ParseQuery(string(text))
		asked.Paths = form["paths"]
	} else if err == nil {
		err = json.Unmarshal(text, &asked)
	}
	if err != nil {
		fail(w, r, http.StatusBadRequest, "", fmt.Sprintf("cannot read the list of paths: %v", err))
		return
	}
	found := []json.RawMessage{}
	slices.Sort(asked.Paths)
	for _, path := range slices.Compact(asked.Paths) {
		if raw, ok := l.Entry(path); ok {
			found = append(found, plain(raw))
		}
	}
	body, _ := json.Marshal(found)
	answer(w, body)
}

// tree lists a folder.
func (f *Handler) tree(w http.ResponseWriter, r *http.Request, a ask, l *models.Listing) {
	recursive := strings.EqualFold(a.rawQuery.Get("recursive"), "true") || a.rawQuery.Get("recursive") == "1"
	found, here := []json.RawMessage{}, a.path == ""
	paths := l.Paths()
	for i, raw := range l.Tree {
		path := paths[i]
		if a.path != "" {
			here = here || path == a.path
			inside, ok := strings.CutPrefix(path, a.path+"/")
			if !ok {
				continue
			}
			here, path = true, inside
		}
		if recursive || !strings.Contains(path, "/") {
			found = append(found, plain(raw))
		}
	}
	if !here {
		fail(w, r, http.StatusNotFound, "EntryNotFound", a.path+" does not exist on "+l.Revision)
		return
	}
	body, _ := json.Marshal(found)
	answer(w, body)
}

// plain removes the field that would make a client bypass the cache and read from the Hub's Xet
// store.
func plain(raw json.RawMessage) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return raw
	}
	delete(fields, "xetHash")
	out, err := json.Marshal(fields)
	if err != nil {
		return raw
	}
	return out
}
