package models

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"aliquot.example/cache/fetch"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/store"
	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// Job fetches one revision of a model to this node.
type Job struct {
	library *Library
	listing *Listing
	files   []origin.File
	view    store.View
	token   string
	asker   string // identifies the token's owner, without the token itself
	end     context.CancelCauseFunc

	mu        sync.Mutex
	owners    []string
	open      bool            // requested without an owner, so never cancelled
	expiry    *time.Timer     // runs once all owners have gone
	ended     bool            // it was cancelled because it had no owners
	readers   []*fetch.Reader // of files that are being fetched
	doneBytes int64           // bytes of whole files
	peers     int             // the most peers that sent parts of one file
	kept      []func()        // release the holds on whole files
	started   time.Time
	path      string
	err       error
	done      chan struct{}
}

// ErrAsk is the error of a request that can never succeed.
var ErrAsk = errors.New("invalid request")

// atOnce is how many files of a model are fetched at once, and large how many of these may have
// more than one chunk. A small file mostly waits for the disk to sync, and a large one for the
// network.
const atOnce, large = 16, 3

// Fetch starts to fetch a model to this node, or joins a job that does. The owner, if any, pins the
// model as soon as it is whole.
func (l *Library) Fetch(ctx context.Context, ask cacheapi.Fetch) (*Job, error) {
	ref, err := blob.ParseRef(ask.Model)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAsk, err)
	}
	listing, err := l.List(ctx, ref, ask.Token)
	if err != nil {
		return nil, err
	}
	if listing, err = l.platform(ctx, listing, ask.Token); err != nil {
		return nil, err
	}
	files, err := chosen(listing.Files, ask.Include, ask.Exclude)
	if err != nil {
		return nil, fmt.Errorf("%w: model %s: %w", ErrAsk, ref, err)
	}
	view := layout(ref, listing.Revision, files)
	l.mu.Lock()
	defer l.mu.Unlock()
	j := l.jobs[view.Name]
	if j == nil || j.failed() || j.evicted() {
		l.prune()
		j = &Job{library: l, listing: listing, files: files, view: view, token: ask.Token, asker: asker(ref, ask.Token),
			started: time.Now(), done: make(chan struct{})}
		l.jobs[view.Name] = j
		run, end := context.WithCancelCause(context.WithoutCancel(ctx))
		j.end = end
		go j.run(run)
	}
	return j, j.pinFor(ask.Owner)
}

// pinFor pins the model for an owner, now or as soon as it is whole.
func (j *Job) pinFor(owner string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if owner == "" {
		j.open = true
		return nil
	}
	if j.expiry != nil {
		j.expiry.Stop()
	}
	if j.path == "" {
		if !slices.Contains(j.owners, owner) {
			j.owners = append(j.owners, owner)
		}
		return nil
	}
	return j.pin(owner)
}

func (j *Job) pin(owner string) error {
	if err := j.library.Cache.Store().PinAlso(owner, j.view.Name); err != nil {
		return fmt.Errorf("cannot pin model %s: %w", j.listing.Ref, err)
	}
	return nil
}

// Held returns the status of the job. If the model is whole, it pins it for the owner, if any, so
// that it can be mounted.
func (j *Job) Held(owner string) (cacheapi.Model, error) {
	m := j.Status()
	if m.State != cacheapi.Whole {
		return m, nil
	}
	return m, j.pinFor(owner)
}

// Unpin removes the pins of an owner, including those of models that are not yet whole.
func (l *Library) Unpin(owner string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.jobs {
		j.mu.Lock()
		n := len(j.owners)
		j.owners = slices.DeleteFunc(j.owners, func(o string) bool { return o == owner })
		if n > 0 && len(j.owners) == 0 && !j.open {
			j.expiry = time.AfterFunc(l.lingerTime(), j.unwanted)
		}
		j.mu.Unlock()
	}
	return l.Cache.Store().Unpin(owner)
}

// defaultLinger is how long a fetch continues after its last owner has gone: a restarted task wants the
// same model.
const defaultLinger = 2 * time.Minute

// errUnwanted is the cause of cancelling a fetch that has lost its last owner.
var errUnwanted = errors.New("no task waits for it any longer")

func (l *Library) lingerTime() time.Duration { return cmp.Or(l.Linger, defaultLinger) }

// unwanted cancels a fetch whose owners have gone. The bytes that have arrived stay until room is
// needed.
func (j *Job) unwanted() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.owners) == 0 && !j.open {
		j.ended = true // the next request starts a new job
		j.end(errUnwanted)
	}
}

func (j *Job) failed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err != nil || j.ended && j.path == ""
}

// RefusedAnother reports whether the job failed because the origin refused another client's
// credentials, for example expired keys. The caller then starts a job with its own.
func (j *Job) RefusedAnother(token string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Is(j.err, origin.ErrDenied) && j.asker != asker(j.listing.Ref, token)
}

// evicted reports whether the model was whole and has since been evicted.
func (j *Job) evicted() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.path != "" && j.library.Cache.Store().View(j.view.Name) == ""
}

// Done returns a channel that is closed when the job has ended.
func (j *Job) Done() <-chan struct{} { return j.done }

func (j *Job) run(ctx context.Context) {
	err := j.fetch(ctx)
	if why := context.Cause(ctx); err != nil && why != nil {
		err = why
	}
	j.end(nil)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.token = ""
	j.err = err
	if errors.Is(err, fetch.ErrClosed) || errors.Is(err, errUnwanted) {
		j.library.Log.Info("stopped fetching a model", "model", j.listing.Ref.String(), "why", err)
	} else if err != nil {
		j.library.Log.Error("cannot fetch a model", "model", j.listing.Ref.String(), "error", err)
	} else {
		j.library.Log.Info("fetched a model", "model", j.listing.Ref.String(), "revision", j.listing.Revision,
			"bytes", j.total(), "took", time.Since(j.started).Round(time.Millisecond).String())
	}
	close(j.done)
}

// fetch fetches the files, publishes them as a view and pins it for the owners. Until then, no
// fetched file is evicted.
func (j *Job) fetch(ctx context.Context) error {
	if at := j.library.Cache.Store().View(j.view.Name); at != "" {
		j.settle(at)
		return nil
	}
	defer func() {
		for _, release := range j.kept {
			release()
		}
	}()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	turns := make(chan struct{}, large)
	for _, f := range j.files {
		if f.Object.Chunks() > 1 {
			turns <- struct{}{}
		}
		group.Go(func() error {
			if f.Object.Chunks() > 1 {
				defer func() { <-turns }()
			}
			err := j.fetchFile(ctx, f)
			if errors.Is(err, store.ErrDigest) {
				// An earlier attempt may have left wrong bytes; they are deleted now.
				err = j.fetchFile(ctx, f)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	at, err := j.library.Cache.Store().Publish(j.view)
	if err != nil {
		return err
	}
	j.settle(at)
	return nil
}

// settle records the path of the model and pins it for its owners.
func (j *Job) settle(at string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.path = at
	for _, owner := range j.owners {
		if err := j.pin(owner); err != nil {
			j.library.Log.Error(err.Error(), "owner", owner)
		}
	}
}

// fetchFile fetches a file and holds it against eviction. It does not keep the file open, because a
// repository may have a hundred thousand.
func (j *Job) fetchFile(ctx context.Context, f origin.File) error {
	r, err := j.library.Cache.Open(ctx, fetch.Target{Object: f.Object, Source: f.Source, Token: j.token}, 0,
		f.Object.Size)
	if err != nil {
		return err
	}
	defer r.Close()
	j.mu.Lock()
	j.readers = append(j.readers, r)
	j.mu.Unlock()
	err = r.Wait()
	release, ok := func() {}, false
	if err == nil {
		if release, ok = j.library.Cache.Store().Hold(f.Object.ID); !ok {
			err = errGone
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.Index(j.readers, r)
	j.readers = slices.Delete(j.readers, i, i+1)
	if err != nil {
		return err
	}
	_, peers := r.Progress()
	j.doneBytes, j.peers = j.doneBytes+f.Object.Size, max(j.peers, peers)
	j.kept = append(j.kept, release)
	return nil
}

// errGone is the error of a file that was evicted as soon as it was whole.
var errGone = fmt.Errorf("%w: another file evicted it immediately", store.ErrNoRoom)

func (j *Job) total() (sum int64) {
	for _, f := range j.files {
		sum += f.Object.Size
	}
	return sum
}

// Status returns the status of the job.
func (j *Job) Status() cacheapi.Model {
	j.mu.Lock()
	defer j.mu.Unlock()
	m := cacheapi.Model{
		Model: j.listing.Ref.String(), Revision: j.listing.Revision, State: cacheapi.Fetching, Total: j.total(),
		Stale: j.listing.Stale, Seconds: time.Since(j.started).Seconds(),
	}
	m.Bytes, m.Peers = j.doneBytes, j.peers
	for _, r := range j.readers {
		held, peers := r.Progress()
		m.Bytes += held
		m.Peers = max(m.Peers, peers)
	}
	switch {
	case j.err != nil:
		m.State, m.Error = cacheapi.Failed, j.err.Error()
		m.Final = origin.Final(j.err) || errors.Is(j.err, store.ErrNoRoom)
	case j.path != "":
		m.State, m.Path, m.Bytes = cacheapi.Whole, j.path, m.Total
	}
	return m
}

// chosen returns the files that match the patterns; without any, all.
func chosen(files []origin.File, include, exclude []string) (some []origin.File, err error) {
	match := func(patterns []string, name string) (bool, error) {
		for _, p := range patterns {
			ok, err := path.Match(p, name)
			if err != nil {
				return false, fmt.Errorf("pattern %q: %w", p, err)
			}
			if base, _ := path.Match(p, path.Base(name)); ok || base || strings.HasSuffix(p, "/") &&
				strings.HasPrefix(name, p) {
				return true, nil
			}
		}
		return false, nil
	}
	for _, f := range files {
		in, err := match(include, f.Path)
		if err != nil {
			return nil, err
		}
		out, err := match(exclude, f.Path)
		if err != nil {
			return nil, err
		}
		if (in || len(include) == 0) && !out {
			some = append(some, f)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("the include and exclude patterns select none of the %d files", len(files))
	}
	return some, nil
}

// Folder returns the name of a repository's folder in the layout of the Hub's own cache.
func Folder(name string) string {
	kind, id := origin.Kind(name)
	return kind + "--" + strings.ReplaceAll(id, "/", "--")
}

// named is the file of a view, outside of what is mounted, that holds the model's name.
const named = ".model"

// layout returns the view of a model. Models of the Hub use the layout of the Hub's own cache below
// "hub", so that clients find them with HF_HUB_CACHE. Others are plain files below "files".
func layout(ref blob.Ref, revision string, files []origin.File) store.View {
	words := []string{ref.String(), revision}
	v := store.View{Objects: map[string]string{}, Links: map[string]string{}, Texts: map[string]string{}}
	repo := path.Join("hub", Folder(ref.Name))
	for _, f := range files {
		words = append(words, f.Path, f.Object.ID)
		if ref.Scheme != "hf" {
			v.Objects[path.Join("files", f.Path)] = f.Object.ID
			continue
		}
		sum := f.Object.Checksum().Digest
		v.Objects[path.Join(repo, "blobs", sum)] = f.Object.ID
		up := strings.Repeat("../", 2+strings.Count(f.Path, "/"))
		v.Links[path.Join(repo, "snapshots", revision, f.Path)] = up + "blobs/" + sum
	}
	if ref.Scheme == "hf" {
		// The mounted revision answers to "main" too, whatever name a program asks for.
		v.Texts[path.Join(repo, "refs", "main")] = revision
		v.Texts[path.Join(repo, "refs", ref.Revision)] = revision
	}
	v.Texts[named] = ref.String()
	text, _ := json.Marshal(words)
	base := strings.NewReplacer("/", "--", ":", "", "@", "-").Replace(ref.Name)
	v.Name = strings.Trim(fmt.Sprintf("%.80s-%s", strings.TrimLeft(base, ".-"), digest(string(text))[:16]), ".-")
	return v
}
