package cluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path"
	"time"

	"aliquot.example/e2e/ports"
)

// registryConfig is the configuration of the registry. It keeps everything in the cluster's
// directory and listens only on loopback, where Docker needs no TLS.
const registryConfig = `version: 0.1
log:
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: %s
http:
  addr: %s
`

// startRegistry starts a container registry and waits until it answers.
func (c *Cluster) startRegistry(ctx context.Context) error {
	program, err := c.tool(ctx, "registry")
	if err != nil {
		return err
	}
	own, err := ports.Free(1)
	if err != nil {
		return err
	}
	c.Registry = fmt.Sprintf("127.0.0.1:%d", own[0])
	c.Say("starting a registry")
	config := fmt.Sprintf(registryConfig, c.path("registry"), c.Registry)
	if err := os.WriteFile(c.path("registry.yml"), []byte(config), 0o644); err != nil {
		return err
	}
	env := append(c.environment(), "OTEL_TRACES_EXPORTER=none")
	if c.registry, err = spawn("registry", c.path("logs", "registry.log"), env, program,
		"serve", c.path("registry.yml")); err != nil {
		return err
	}
	ctx, cancel := c.registry.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 30*time.Second, "the registry", func() string {
		response, err := http.Get("http://" + c.Registry + "/v2/")
		if err != nil {
			return err.Error()
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return "answers " + response.Status
		}
		return ""
	})
}

// push moves the model server's images from the docker engine to the registry, so that tasks must
// pull them.
func (c *Cluster) push(ctx context.Context) error {
	remote := path.Join(c.Registry, "modelserver")
	for _, variant := range variants {
		local, there := c.Image+":"+variant, remote+":"+variant
		for _, args := range [][]string{{"tag", local, there}, {"push", "-q", there}, {"rmi", there, local}} {
			if _, err := docker(ctx, nil, args...); err != nil {
				return err
			}
		}
	}
	c.Image = remote
	return nil
}
