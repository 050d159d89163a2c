package aliquot

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
)

// modelsRoot is where a container finds the models of its task.
const modelsRoot = "/aliquot/models"

// modelConfig is a task's configuration of its models.
type modelConfig struct {
	refs             []blob.Ref
	include, exclude []string
	// wait is the time to wait for models that the task could also read through the cache's Hub
	// endpoint, timeout that for others.
	wait, timeout time.Duration
	// token is the task's token for the Hub, keys its keys for S3; "" if it has none.
	token, keys string
	// login is the task's credentials for the registry loginHost.
	login, loginHost string
	namespace        string
	// ownNetwork is set if the container has its own loopback address.
	ownNetwork bool
}

// modelConfig reads and checks a task's configuration of its models.
func (c TaskConfig) modelConfig(cfg *drivers.TaskConfig) (w modelConfig, err error) {
	w = modelConfig{include: c.ModelsInclude, exclude: c.ModelsExclude, ownNetwork: c.NetworkMode != "host",
		namespace: cfg.Namespace}
	if len(c.Models) == 0 {
		return w, nil
	}
	for _, name := range c.Models {
		ref, err := blob.ParseRef(name)
		if err != nil {
			return w, fmt.Errorf("models: %w", err)
		}
		for _, o := range w.refs {
			if err := checkOverlap(o, ref); err != nil {
				return w, fmt.Errorf("models: %w", err)
			}
		}
		w.refs = append(w.refs, ref)
	}
	for _, p := range slices.Concat(w.include, w.exclude) {
		if _, err := path.Match(p, ""); err != nil {
			return w, fmt.Errorf("models_include, models_exclude: %q is not a pattern such as \"*.safetensors\"", p)
		}
	}
	for target := range c.targets() {
		if within(modelsRoot, target) || within(target, modelsRoot) {
			return w,
				fmt.Errorf("models are mounted below %s, and the task mounts something at %s: give that another target",
					modelsRoot, target)
		}
	}
	// Zero is valid: the task then reads missing models through the Hub endpoint at once.
	if w.wait, err = time.ParseDuration(c.ModelsWait); err != nil || w.wait < 0 {
		return w, fmt.Errorf("models_wait is %q: want a duration such as \"10s\"", c.ModelsWait)
	}
	if w.timeout, err = positive("models_timeout", c.ModelsTimeout); err != nil {
		return w, err
	}
	w.credentials(c, cfg.Env)
	return w, nil
}

// credentials reads the task's credentials, each for one kind of origin.
func (w *modelConfig) credentials(c TaskConfig, env map[string]string) {
	w.token = firstOf(env, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
	keys := cacheapi.S3Keys{
		Endpoint: firstOf(env, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
		ID:       env["AWS_ACCESS_KEY_ID"], Secret: env["AWS_SECRET_ACCESS_KEY"], Session: env["AWS_SESSION_TOKEN"],
	}
	if keys.ID != "" && keys.Secret != "" {
		w.keys = keys.Token()
	}
	if c.Auth.Username != "" || c.Auth.Password != "" {
		w.login = cacheapi.Login(c.Auth.Username, c.Auth.Password)
		w.loginHost = registryOf(c.Auth.ServerAddr, c.Image)
	}
}

// registryOf returns the registry for which credentials are valid: that of the credentials' address
// or, without one, that of the image.
func registryOf(address, image string) string {
	if address != "" {
		return blob.Registry(address)
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return blob.Registry(reference.Domain(named))
}

func firstOf(env map[string]string, names ...string) string {
	for _, name := range names {
		if env[name] != "" {
			return env[name]
		}
	}
	return ""
}

// checkOverlap fails for two models whose mounts would overlap.
func checkOverlap(a, b blob.Ref) error {
	switch x, y := placeOf(a), placeOf(b); {
	case x == y:
		return fmt.Errorf("%s and %s have the same path in the task, %s: remove one of them", a, b, x)
	case within(x, y), within(y, x):
		return fmt.Errorf("one of %s and %s contains the other: keep only the outer one", a, b)
	}
	return nil
}

// placeOf returns the path of a model in a container: in a Hub cache for hf, otherwise a path with the
// model's name.
func placeOf(r blob.Ref) string {
	if r.Scheme == "hf" {
		return path.Join(modelsRoot, "hub", r.Name)
	}
	return path.Join(modelsRoot, strings.Trim(path.Clean("/"+r.Name), "/"))
}

// ask returns the request for one model to the node's cache.
func (w modelConfig) ask(ref blob.Ref, owner string, wait time.Duration) cacheapi.Fetch {
	f := cacheapi.Fetch{Model: ref.String(), Include: w.include, Exclude: w.exclude, Owner: owner,
		Namespace: w.namespace, Wait: wait.Seconds()}
	host, _, _ := strings.Cut(ref.Name, "/")
	switch {
	case ref.Scheme == "hf":
		f.Token = w.token
	case ref.Scheme == "s3":
		f.Token = w.keys
	case ref.Scheme == "oci" && blob.Registry(host) == w.loginHost:
		f.Token = w.login
	}
	return f
}

// whole reports whether all models are complete.
func whole(models []cacheapi.Model) bool {
	for _, m := range models {
		if m.State != cacheapi.Whole {
			return false
		}
	}
	return true
}

// noEndpoint returns why a task cannot read its incomplete models through the cache's Hub endpoint, or
// "" if it can.
func (w modelConfig) noEndpoint(models []cacheapi.Model, endpoint string) string {
	for i, m := range models {
		switch {
		case m.State == cacheapi.Whole:
		case w.refs[i].Scheme != "hf":
			return w.refs[i].String() + " can only be mounted when complete"
		case endpoint == "":
			return "the cache's hf_listen is off"
		case w.ownNetwork && loopback(endpoint):
			return "the cache's Hub endpoint is at " + endpoint + ", which this task's network does not reach"
		}
	}
	return ""
}

func loopback(url string) bool {
	host := strings.TrimPrefix(url, "http://")
	return strings.HasPrefix(host, "127.") || strings.HasPrefix(host, "localhost:") || strings.HasPrefix(host, "[::1]")
}

// endpointEnv returns the environment with which clients of the Hub read through the cache's Hub endpoint. The
// endpoint waits for missing files, which takes longer than clients expect from the Hub.
func endpointEnv(job map[string]string, endpoint string) map[string]string {
	env := map[string]string{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "60", "HF_HUB_ETAG_TIMEOUT": "60"}
	for name := range env {
		if job[name] != "" {
			env[name] = job[name]
		}
	}
	env["HF_ENDPOINT"] = endpoint
	return env
}

// offline returns the environment with which clients of the Hub find mounted models. Other caches,
// such as that of a model's code, stay where they are.
func offline() map[string]string {
	hub := path.Join(modelsRoot, "hub")
	return map[string]string{"HF_HUB_CACHE": hub, "HUGGINGFACE_HUB_CACHE": hub, "HF_HUB_OFFLINE": "1"}
}

// ofHub reports whether one of the models is a repository of the Hub.
func (w modelConfig) ofHub() bool {
	return slices.ContainsFunc(w.refs, func(r blob.Ref) bool { return r.Scheme == "hf" })
}

// modelMount returns the mount of a complete model, from the cache's view of it: a repository of the Hub
// in the layout of the Hub's cache, a single file as a file, anything else as a directory.
func modelMount(ref blob.Ref, view string) (*drivers.MountConfig, error) {
	m := &drivers.MountConfig{HostPath: filepath.Join(view, "files"), TaskPath: placeOf(ref), Readonly: true}
	if ref.Scheme == "hf" {
		m.HostPath, m.TaskPath = filepath.Join(view, "hub"), path.Join(modelsRoot, "hub")
	}
	list, err := os.ReadDir(m.HostPath)
	switch {
	case err != nil:
		return nil, err
	case ref.Scheme == "hf" && len(list) != 1:
		return nil, fmt.Errorf("%s has %d repositories instead of one", m.HostPath, len(list))
	case ref.Scheme == "hf":
		m.HostPath, m.TaskPath = filepath.Join(m.HostPath, list[0].Name()), path.Join(m.TaskPath, list[0].Name())
	case len(list) == 1 && list[0].Name() == path.Base(ref.Name) && !list[0].IsDir():
		m.HostPath = filepath.Join(m.HostPath, list[0].Name())
	}
	return m, nil
}
