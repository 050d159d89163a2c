package aliquot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/cacheapi"
)

// pull is the pull of an image in the background.
type pull struct {
	done chan struct{} // closed at the end of the pull, also of a failed one
	at   time.Time     // when the image was complete; zero if it is not. Valid after done.
}

// pullBeside pulls a task's image while its models are fetched, if its name and the job's credentials
// are enough for that. Afterwards the docker driver finds the image, or pulls it as usual and reports
// why it cannot.
func (d *Driver) pullBeside(ctx context.Context, cfg *drivers.TaskConfig, task TaskConfig) *pull {
	return d.pulling(ctx, cfg, task, true)
}

// pullThrough pulls a task's image through the node's cache, so that the cluster reads it only once
// from its registry. Without a cache that can do this, the docker driver pulls the image as usual.
func (d *Driver) pullThrough(ctx context.Context, cfg *drivers.TaskConfig, task TaskConfig) {
	<-d.pulling(ctx, cfg, task, false).done
}

func (d *Driver) pulling(ctx context.Context, cfg *drivers.TaskConfig, task TaskConfig, direct bool) *pull {
	p := &pull{done: make(chan struct{})}
	set, _ := d.settings()
	named := !set.authenticates && task.LoadImage == "" && !task.ForcePull
	limit, err := time.ParseDuration(cmp.Or(task.ImagePullTimeout, set.pullTimeout))
	if !named || err != nil {
		close(p.done)
		return p
	}
	go func() {
		defer close(p.done)
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		of := puller{d: d, cfg: cfg, task: task, cache: d.cache()}
		of.direct = direct && task.Auth.Username == "" && task.Auth.Password == ""
		if err := of.pull(ctx, set); err != nil {
			d.log.Debug("cannot pull the image before the container's start", "image", task.Image, "error", err)
			return
		}
		p.at = time.Now()
	}()
	return p
}

// puller pulls the image of one task.
type puller struct {
	d      *Driver
	cfg    *drivers.TaskConfig
	task   TaskConfig
	cache  *cacheapi.Client
	engine *client.Client
	direct bool // also from the registry itself
}

// askTimeout is how long the cache may take to say how an image is pulled through it.
const askTimeout = 5 * time.Second

func (p *puller) pull(ctx context.Context, set settings) (err error) {
	name := p.task.Image
	if p.engine, err = set.engine.client(); err != nil {
		return err
	}
	defer p.engine.Close()
	if _, err := p.engine.ImageInspect(ctx, name); err == nil {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	through, err := p.cache.Image(asking, cacheapi.Image{Image: name, Namespace: p.cfg.Namespace})
	cancel()
	if err == nil {
		p.emit("image "+name+" is pulled through the node's cache", "cache")
		if err = p.through(ctx, name, through); err == nil {
			return nil
		}
		p.d.log.Warn("cannot pull an image through the cache; pulling it from its registry",
			"image", name, "error", err)
	}
	if !p.direct {
		return err
	}
	p.emit("image "+name+" is pulled", "registry")
	return p.image(ctx, name, "")
}

func (p *puller) emit(message, from string) {
	p.d.emit(p.cfg, message, map[string]string{"image": p.task.Image, "from": from})
}

// through pulls an image by the cache's name for it, and then gives it its own name. Only a pull can
// give an image a name with a digest; since all layers are present, that pull reads only the manifest.
func (p *puller) through(ctx context.Context, name string, through cacheapi.Pull) error {
	auth := registry.AuthConfig{Username: through.Username, Password: through.Password}
	if p.task.Auth.Username != "" || p.task.Auth.Password != "" {
		auth.Username, auth.Password = p.task.Auth.Username, p.task.Auth.Password
	}
	signed, err := registry.EncodeAuthConfig(auth)
	if err != nil {
		return err
	}
	if err := p.image(ctx, through.Name, signed); err != nil {
		return err
	}
	// The image's own name keeps the image.
	defer func() {
		if _, err := p.engine.ImageRemove(ctx, through.Name, image.RemoveOptions{}); err != nil {
			p.d.log.Debug("cannot remove the cache's name of an image", "image", through.Name, "error", err)
		}
	}()
	if strings.Contains(name, "@") {
		own := ""
		if p.task.Auth.Username != "" || p.task.Auth.Password != "" {
			own = signed
		}
		return p.image(ctx, name, own)
	}
	return p.engine.ImageTag(ctx, through.Name, name)
}

// image makes the engine pull an image, and waits for the end.
func (p *puller) image(ctx context.Context, name, auth string) error {
	progress, err := p.engine.ImagePull(ctx, name, image.PullOptions{RegistryAuth: auth})
	if err != nil {
		return err
	}
	defer progress.Close()
	for lines := json.NewDecoder(progress); ; {
		var line struct {
			Error string `json:"error"`
		}
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case line.Error != "":
			return fmt.Errorf("the engine: %s", line.Error)
		}
	}
}
