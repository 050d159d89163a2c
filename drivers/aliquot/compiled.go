package aliquot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/compiled"
	machine "aliquot.example/internal/host"
	"aliquot.example/internal/snapshot"
)

const (
	// compiledRoot is the directory of compile caches in the container, compiledDir that in the
	// task's directory on the host. The container sees nothing else of the task's directory there.
	compiledRoot = "/aliquot/compiled"
	compiledDir  = "aliquot-compiled"
	// seedTimeout is how long a start waits for a snapshot, publishTimeout how long publishing one may
	// take, and compileTimeout how long after the start one is published.
	seedTimeout    = 2 * time.Minute
	publishTimeout = 10 * time.Minute
	compileTimeout = 2 * time.Hour
)

// compiledLimits bound a snapshot.
var compiledLimits = snapshot.Limits{Files: 200_000, Bytes: 8 << 30}

// compileConfig is a task's configuration of its compile cache.
type compileConfig struct {
	on bool
	// check is the URL that a healthy task answers, "" for none.
	check  string
	settle time.Duration
}

func (c TaskConfig) compileConfig(cfg *drivers.TaskConfig) (w compileConfig, err error) {
	if !c.CompileCache {
		return w, nil
	}
	w.on = true
	if w.settle, err = positive("compile_cache_settle", c.CompileCacheSettle); err != nil {
		return w, err
	}
	for target := range c.targets() {
		if within(compiledRoot, target) || within(target, compiledRoot) {
			return w,
				fmt.Errorf("compile caches are at %s, and the task mounts something at %s: give that another target",
					compiledRoot, target)
		}
	}
	w.check, err = c.readyURL(cfg)
	return w, err
}

// compiledState is what Nomad keeps of a task's compile cache.
type compiledState struct {
	// Key names the snapshot, Image is the digest of the image for which it is valid, and Seed
	// describes the files at the start.
	Key, Image string
	Seed       compiled.Tree
	Until      int64 // seconds since 1970
	// wants is the key without the image, if the digest is known only after the start.
	wants *compiled.Key
}

// settleImage completes the key of a task whose container runs.
func (c *compiledState) settleImage(digest string) {
	if c.wants == nil {
		return
	}
	k := *c.wants
	k.Image = digest
	c.Key, c.Image = k.Sum(), digest
}

// seed gives a start its own copy of what its job has compiled before. An error here never prevents the
// start. seed returns nil if the task must not publish.
func (d *Driver) seed(cfg *drivers.TaskConfig, s *start, models []cacheapi.Model) *compiledState {
	if !s.compile.on {
		return nil
	}
	dir := filepath.Join(cfg.TaskDir().Dir, compiledDir)
	if err := emptyCaches(dir); err != nil {
		d.emit(cfg, fmt.Sprintf("compile cache: %v; the task starts without one", err), nil)
		return nil
	}
	s.config.Mounts = append(s.config.Mounts, &drivers.MountConfig{HostPath: dir, TaskPath: compiledRoot})
	for name, value := range compiled.Places(compiledRoot) {
		if s.config.Env[name] == "" {
			s.config.Env[name] = value
		}
	}
	state := &compiledState{Until: time.Now().Add(compileTimeout).Unix()}
	ctx, cancel := context.WithTimeout(d.ctx, seedTimeout)
	defer cancel()
	image, unknown := d.imageDigest(s.task)
	k := keyOf(cfg, s, models, cmp.Or(image, "after the start"))
	if err := k.Check(); err != nil {
		d.emit(cfg, fmt.Sprintf("compile cache: empty, and it will not be kept: %v", err), nil)
		return nil
	}
	if unknown != nil {
		d.emit(cfg, fmt.Sprintf("compile cache: empty at this start: %v", unknown), nil)
		state.wants = &k
		return state
	}
	state.Key, state.Image = k.Sum(), image
	began := time.Now()
	err := d.unpack(ctx, state.Key, dir)
	var refused *cacheapi.Error
	notes := map[string]string{"compile_cache": state.Key}
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		d.emit(cfg,
			"compile cache: empty, this job has compiled nothing yet for this GPU, driver, image and these arguments",
			notes)
		return state
	case err == nil:
		state.Seed, err = snapshot.Look(ctx, dir, compiledLimits)
	}
	if err != nil {
		d.emit(cfg, fmt.Sprintf("compile cache: empty: %v", err), notes)
		if err := emptyCaches(dir); err != nil {
			d.log.Error("cannot empty a compile cache", "task", cfg.Name, "error", err)
		}
		return state
	}
	d.emit(cfg, fmt.Sprintf("compile cache: %d files, %s, from an earlier start of this job, in %.1f s",
		state.Seed.Files, size(float64(state.Seed.Bytes)), time.Since(began).Seconds()), notes)
	return state
}

// emptyCaches replaces the task's directory of caches by an empty one that any user of the image can
// write.
func emptyCaches(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, folder := range append([]string{""}, compiled.Folders()...) {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o777); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(at string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chmod(at, 0o777) // past the umask
	})
}

func (d *Driver) unpack(ctx context.Context, key, dir string) error {
	archive, err := d.cache().Snapshot(ctx, key)
	if err != nil {
		return err
	}
	defer archive.Close()
	return snapshot.Unpack(ctx, archive, dir, compiledLimits)
}

// imageDigest returns the digest of a task's image, if the image is on the node.
func (d *Driver) imageDigest(task TaskConfig) (string, error) {
	if task.ForcePull || moves(task.Image) {
		return "", fmt.Errorf("image %s is pulled again at each start, so its digest is not known before", task.Image)
	}
	set, _ := d.settings()
	engine, err := set.engine.client()
	if err != nil {
		return "", err
	}
	defer engine.Close()
	info, err := engine.ImageInspect(d.ctx, task.Image)
	if err != nil {
		return "", fmt.Errorf("the digest of image %s is not known before the start", task.Image)
	}
	return info.ID, nil
}

// moves reports whether the docker driver pulls an image even if it is on the node: one without tag or
// digest, or with the tag latest.
func moves(image string) bool {
	name := image[strings.LastIndexByte(image, '/')+1:]
	if strings.Contains(name, "@") {
		return false
	}
	_, tag, _ := strings.Cut(name, ":")
	return tag == "" || tag == "latest"
}

// keyOf returns the key that the snapshot for a start must have.
func keyOf(cfg *drivers.TaskConfig, s *start, models []cacheapi.Model, image string) compiled.Key {
	task := s.task
	k := compiled.Key{
		Namespace: cfg.Namespace, Image: image, Machine: machine.Running.Processor(),
		Env:  compiled.Relevant(s.config.Env),
		Args: compiled.Arguments(slices.Concat(task.Entrypoint, []string{task.Command}, task.Args), cfg.Env),
	}
	for name := range cfg.DeviceEnv { // compiled code does not depend on which slices these are
		delete(k.Env, name)
	}
	k.Job = jobOf(cfg)
	if g := s.check.grant(); g != nil {
		k.Vendor, k.Target, k.Driver = string(g.Vendor), g.Target, g.Driver
	}
	for _, m := range models {
		k.Models = append(k.Models, m.Model+" "+m.Revision)
	}
	k.Models = append(k.Models, s.models.include...)
	return k
}

// jobOf returns the job whose snapshots a task uses, which is the parent of a periodic or dispatched
// job.
func jobOf(cfg *drivers.TaskConfig) string { return cmp.Or(cfg.ParentJobID, cfg.JobID) }

// scopeOf returns the name of that job for prefetching its snapshots to other nodes.
func scopeOf(cfg *drivers.TaskConfig) string { return cacheapi.Scope(cfg.Namespace, jobOf(cfg)) }

// publishCompiled publishes a task's compile cache once the task is healthy and has stopped compiling.
func (d *Driver) publishCompiled(t *task, state compiledState) {
	var task TaskConfig
	if err := t.config.DecodeDriverConfig(&task); err != nil {
		return
	}
	w, err := task.compileConfig(t.config)
	if err != nil || !w.on {
		return
	}
	dir := filepath.Join(t.config.TaskDir().Dir, compiledDir)
	settling := compiled.Settling{For: w.settle, Until: time.Unix(state.Until, 0), Seed: state.Seed}
	look := time.NewTicker(max(w.settle/4, 100*time.Millisecond))
	defer look.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-look.C:
		}
		tree, err := snapshot.Look(t.ctx, dir, compiledLimits)
		if err != nil {
			d.emit(t.config, fmt.Sprintf("compile cache: not kept: %v", err), nil)
			return
		}
		switch settling.Observe(time.Now(), tree, w.check == "" || answers(t.ctx, w.check)) {
		case compiled.Publish:
			err := d.publishTree(t, state, dir, tree)
			if errors.Is(err, errUnsettled) && settling.Changed() == compiled.Wait {
				continue
			}
			if err != nil {
				d.emit(t.config, fmt.Sprintf("compile cache: not kept: %v", err), nil)
			}
			return
		case compiled.Leave:
			return
		}
	}
}

// errUnsettled is the error of a directory that changed while it was packed.
var errUnsettled = errors.New("it changed while it was packed")

// publishTree packs the directory of a task, whose content is tree, and publishes it.
func (d *Driver) publishTree(t *task, state compiledState, dir string, tree compiled.Tree) error {
	if err := d.sameImage(t, state.Image); err != nil {
		return err
	}
	archive, err := os.CreateTemp(t.config.TaskDir().Dir, "aliquot-snapshot-")
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := os.Remove(archive.Name()); err != nil {
		return err
	}
	if err := snapshot.Pack(t.ctx, archive, dir, compiledLimits); err != nil {
		return err
	}
	if after, err := snapshot.Look(t.ctx, dir, compiledLimits); err != nil || after != tree {
		return errors.Join(err, errUnsettled)
	}
	length, err := archive.Seek(0, 1)
	if err != nil {
		return err
	}
	if _, err := archive.Seek(0, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, publishTimeout)
	defer cancel()
	err = d.cache().Publish(ctx, state.Key, scopeOf(t.config), archive, length)
	var refused *cacheapi.Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		d.log.Debug("another replica has already published its compile cache", "task", t.config.Name)
		return nil
	}
	if err == nil {
		d.emit(t.config, fmt.Sprintf("compile cache: %d files, %s, are kept for the next start of this job", tree.Files,
			size(float64(tree.Bytes))), map[string]string{"compile_cache": state.Key})
	}
	return err
}

// sameImage fails if the container runs another image than the one in the key, because the tag has moved
// in the meantime.
func (d *Driver) sameImage(t *task, digest string) error {
	runs, err := d.imageOf(t.ctx, t.container)
	if err == nil && runs != digest {
		err = fmt.Errorf("the task runs image %s, but its tag referred to %s before the start", runs, digest)
	}
	return err
}

// imageOf returns the digest of a container's image.
func (d *Driver) imageOf(ctx context.Context, container string) (string, error) {
	set, _ := d.settings()
	engine, err := set.engine.client()
	if err != nil {
		return "", err
	}
	defer engine.Close()
	info, err := engine.ContainerInspect(ctx, container)
	if err != nil {
		return "", err
	}
	return info.Image, nil
}
