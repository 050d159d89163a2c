package aliquot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sync/errgroup"

	"aliquot.example/internal/cacheapi"
)

// envModels is the variable that tells a task where its models are.
const envModels = "ALIQUOT_MODELS"

const (
	// modelPollTime is how long one request to the cache waits for a model.
	modelPollTime = 2 * time.Second
	// unpinTimeout is how long the driver tries to remove the pins of an ended task from the cache.
	// watchPins removes the remaining ones.
	unpinTimeout = 10 * time.Minute
)

// models records which tasks use models of the node's cache.
type models struct {
	mu     sync.Mutex
	owners map[string]held
	// brought has one wake-up after a model has become complete.
	brought chan struct{}
}

// held is one task's use of models.
type held struct {
	ctx context.Context
	end context.CancelFunc
}

func newModels() *models { return &models{owners: map[string]held{}, brought: make(chan struct{}, 1)} }

// ownerOf returns the name under which a task pins models. It changes when the task restarts.
func ownerOf(taskID string) string { return strings.ReplaceAll(taskID, "/", "-") }

// hold starts or continues a task's use of models. The context ends with the use.
func (m *models) hold(ctx context.Context, taskID string) context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.owners[ownerOf(taskID)]
	if !ok {
		h.ctx, h.end = context.WithCancel(ctx)
		m.owners[ownerOf(taskID)] = h
	}
	return h.ctx
}

// leave ends a task's use of models, and reports whether there was one.
func (m *models) leave(taskID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.owners[ownerOf(taskID)]
	if ok {
		h.end()
		delete(m.owners, ownerOf(taskID))
	}
	return ok
}

func (m *models) holds(owner string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.owners[owner]
	return ok
}

// modelState is the state of a task's models that Nomad stores. The task's config names the models.
type modelState struct {
	// Mounted is set if all models were complete at the start.
	Mounted bool
}

// fetchModels fetches the models of a task and adds them to the docker driver's configuration: as mounts
// if all are complete, otherwise through the cache's Hub endpoint. It returns their state, nil for
// a task without models.
func (d *Driver) fetchModels(cfg *drivers.TaskConfig, s *start, image *pull) ([]cacheapi.Model, error) {
	if len(s.models.refs) == 0 {
		return nil, nil
	}
	b := modelFetch{d: d, cfg: cfg, config: s.models, owner: ownerOf(cfg.ID), cache: d.cache()}
	ctx := d.models.hold(d.ctx, cfg.ID)
	found, endpoint, err := b.wait(ctx, image.done)
	if err == nil {
		err = b.addTo(s, found, endpoint)
	}
	if err != nil {
		d.release(cfg.ID)
		return nil, err
	}
	return found, nil
}

// cache returns a client of the node's cache.
func (d *Driver) cache() *cacheapi.Client {
	set, _ := d.settings()
	return cacheapi.NewClient(set.cacheSocket)
}

// modelFetch fetches the models of one task to the node.
type modelFetch struct {
	d      *Driver
	cfg    *drivers.TaskConfig
	config modelConfig
	owner  string
	cache  *cacheapi.Client
	progress
}

// ask requests all models concurrently, and waits for incomplete ones for up to wait.
func (b *modelFetch) ask(ctx context.Context, wait time.Duration) ([]cacheapi.Model, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+answerTimeout)
	defer cancel()
	found := make([]cacheapi.Model, len(b.config.refs))
	group, ctx := errgroup.WithContext(ctx)
	for i, ref := range b.config.refs {
		group.Go(func() (err error) {
			found[i], err = b.cache.Fetch(ctx, b.config.ask(ref, b.owner, wait))
			switch {
			case err != nil || found[i].State != cacheapi.Failed:
				return err
			case found[i].Final:
				return fmt.Errorf("cannot fetch %s: %s: %w", ref, found[i].Error, errFinal)
			}
			return fmt.Errorf("cannot fetch %s: %s", ref, found[i].Error)
		})
	}
	return found, group.Wait()
}

// answerTimeout is how long the cache may take for an answer that does not wait for a model. A cache that
// accepts connections but does not answer counts as one that does not run.
const answerTimeout = 30 * time.Second

// wait waits for the models during the pull of the image, and then for as long as the task's config
// says. If incomplete models can be read through the cache's Hub endpoint, it returns the
// endpoint's URL.
func (b *modelFetch) wait(
	ctx context.Context, pulled <-chan struct{},
) (found []cacheapi.Model, endpoint string, err error) {
	if found, err = b.ask(ctx, 0); err != nil {
		return nil, "", refusal(err)
	}
	if whole(found) {
		b.report(found)
		return found, "", nil
	}
	status, err := b.status(ctx)
	if err != nil {
		return nil, "", refusal(err)
	}
	unread, limit := b.config.noEndpoint(found, status.HF), b.config.wait
	if unread != "" {
		limit = b.config.timeout
	}
	var until time.Time // none while the image is pulled
	for {
		b.report(found)
		select {
		case <-pulled:
			pulled, until = nil, time.Now().Add(limit)
		default:
		}
		left := modelPollTime
		if !until.IsZero() {
			left = min(left, time.Until(until))
		}
		switch {
		case whole(found), left <= 0 && unread == "":
			return found, status.HF, nil
		case left <= 0:
			return nil, "", lateError(limit, unread)
		}
		if found, err = b.ask(ctx, left); err != nil {
			return nil, "", refusal(err)
		}
	}
}

// status asks the cache for its status.
func (b *modelFetch) status(ctx context.Context) (cacheapi.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return b.cache.Status(ctx)
}

// lateError returns the error of a start whose models are not complete in time.
func lateError(limit time.Duration, unread string) error {
	return structs.NewRecoverableError(
		fmt.Errorf("models: not all are complete after %s (models_timeout), and %s; the cache continues to fetch "+
			"them for the next start", limit, unread), true)
}

func (b *modelFetch) report(found []cacheapi.Model) {
	if message, notes := b.progress.event(found); message != "" {
		b.d.emit(b.cfg, message, notes)
	}
	if whole(found) {
		select {
		case b.d.models.brought <- struct{}{}:
		default: // a wake-up is already pending
		}
	}
}

// errFinal marks errors that another attempt on this node would repeat.
var errFinal = errors.New("another node may succeed")

// refusal returns err as a recoverable error, so that Nomad tries the start again on this node, unless
// the cache's answer means that it cannot succeed here.
func refusal(err error) error {
	var answer *cacheapi.Error
	err = fmt.Errorf("models: %w", err)
	if errors.Is(err, errFinal) {
		return err
	}
	if errors.As(err, &answer) {
		switch answer.Status {
		case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusInsufficientStorage:
			return err
		}
		return structs.NewRecoverableError(err, true)
	}
	if errors.Is(err, cacheapi.ErrSilent) {
		err = fmt.Errorf("%w: run jobs/cache.nomad.hcl on this node, or set cache_socket in plugin \"aliquot-driver\"",
			err)
	}
	return structs.NewRecoverableError(err, true)
}

// addTo adds the models to a start. It mounts either all or none of the Hub's models, because a client
// uses either its cache or the Hub.
func (b *modelFetch) addTo(s *start, found []cacheapi.Model, endpoint string) error {
	all := whole(found)
	for i, m := range found {
		ref := b.config.refs[i]
		if !all && ref.Scheme == "hf" {
			continue
		}
		mount, err := modelMount(ref, m.Path)
		if err != nil {
			return fmt.Errorf("models: %s: %w", ref, err)
		}
		s.config.Mounts = append(s.config.Mounts, mount)
	}
	s.config.Env[envModels] = modelsRoot
	switch {
	case !all:
		maps.Copy(s.config.Env, endpointEnv(s.config.Env, endpoint))
	case b.config.ofHub():
		maps.Copy(s.config.Env, offline())
	}
	return nil
}

// followModels reports the progress of the models that a running task reads through the Hub endpoint,
// until they are complete. The next start on this node mounts them.
func (d *Driver) followModels(cfg *drivers.TaskConfig, w modelConfig) {
	ctx := d.models.hold(d.ctx, cfg.ID)
	b := modelFetch{d: d, cfg: cfg, config: w, owner: ownerOf(cfg.ID), cache: d.cache()}
	for ctx.Err() == nil {
		found, err := b.ask(ctx, modelPollTime)
		if err == nil {
			b.report(found)
			if whole(found) {
				return
			}
			continue
		}
		d.log.Debug("cannot read the state of the task's models", "task", cfg.Name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(modelPollTime):
		}
	}
}

// keepModels continues to use the models of a task that an earlier process of the driver has started.
func (d *Driver) keepModels(cfg *drivers.TaskConfig, state *modelState) error {
	if state == nil {
		return nil
	}
	d.models.hold(d.ctx, cfg.ID)
	if state.Mounted {
		return nil
	}
	var task TaskConfig
	if err := cfg.DecodeDriverConfig(&task); err != nil {
		return err
	}
	w, err := task.modelConfig(cfg)
	if err != nil {
		return err
	}
	go d.followModels(cfg, w)
	return nil
}

// release removes a task's pins in the background, because the cache may not answer at the moment.
func (d *Driver) release(taskID string) {
	if !d.models.leave(taskID) {
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, unpinTimeout)
	go func() {
		defer cancel()
		for {
			err := d.cache().Unpin(ctx, ownerOf(taskID))
			if err == nil {
				return
			}
			select {
			case <-ctx.Done():
				d.log.Warn("cannot remove the pins of an ended task from the cache; the driver will try again later",
					"error", err)
				return
			case <-time.After(modelPollTime):
			}
		}
	}()
}
