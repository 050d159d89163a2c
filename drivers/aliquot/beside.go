package aliquot

import (
	"cmp"
	"context"
	"io"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// pull is the pull of an image beside other things.
type pull struct {
	done chan struct{} // closed when there is no more to wait for
	at   time.Time     // when the image was here; zero where it is not. Good after done.
}

// pullBeside pulls a task's image while its models are fetched, where nothing but its
// name is needed for that. The docker driver then finds it, or pulls it as ever and says
// why it cannot.
func (d *Driver) pullBeside(ctx context.Context, cfg *drivers.TaskConfig, task TaskConfig) *pull {
	p := &pull{done: make(chan struct{})}
	set, _ := d.settings()
	named := task.Auth.Username == "" && task.Auth.Password == "" && !set.authenticates && task.LoadImage == "" && !task.ForcePull
	limit, err := time.ParseDuration(cmp.Or(task.ImagePullTimeout, set.pullTimeout))
	if !named || err != nil {
		close(p.done)
		return p
	}
	go func() {
		defer close(p.done)
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if err := d.pull(ctx, set, cfg, task.Image); err != nil {
			d.log.Debug("the image was not pulled beside the models", "image", task.Image, "error", err)
			return
		}
		p.at = time.Now()
	}()
	return p
}

func (d *Driver) pull(ctx context.Context, set settings, cfg *drivers.TaskConfig, name string) error {
	engine, err := set.engine.client()
	if err != nil {
		return err
	}
	defer engine.Close()
	if _, err := engine.ImageInspect(ctx, name); err == nil {
		return nil
	}
	d.emit(cfg, "image "+name+" is pulled", map[string]string{"image": name})
	progress, err := engine.ImagePull(ctx, name, image.PullOptions{})
	if err != nil {
		return err
	}
	defer progress.Close()
	_, err = io.Copy(io.Discard, progress)
	return err
}
