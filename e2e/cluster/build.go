package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// binVariable names a folder of built programs to use. If it is empty, the harness builds them.
const binVariable = "ALIQUOT_BIN"

// The shipped plugins. A plugin's label in Nomad is its file name.
const (
	DevicePlugin = "aliquot-device-nvidia"
	DriverPlugin = "aliquot-driver"
)

// checkout returns the root of the module that the working directory is in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module aliquot.example\n") {
			return dir, nil
		}
	}
	return "", errors.New("run this inside a checkout of Aliquot: it builds programs and submits files of jobs/")
}

// build builds the shipped programs and the stand-ins.
func (c *Cluster) build(ctx context.Context) error {
	if c.bin = os.Getenv(binVariable); c.bin == "" {
		c.Say("building the programs")
		out, err := c.run(ctx, "scripts/build")
		if err != nil {
			return err
		}
		c.bin = strings.TrimSpace(out)
	}
	for _, name := range append(c.devicePlugins(), DriverPlugin) {
		if err := os.Symlink(filepath.Join(c.bin, name), c.path("plugins", name)); err != nil {
			return err
		}
	}
	return nil
}

// run runs a script of the checkout and returns what it printed.
func (c *Cluster) run(ctx context.Context, script string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.root, script), args...)
	cmd.Dir = c.root
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", script, err, strings.TrimSpace(errors.String()))
	}
	return string(out), nil
}

// variants are the tags of the model server's images.
var variants = []string{"nvidia", "amd", "intel", "cpu"}

// buildImages builds the images of the model server, one for each kind of hardware, and the pause
// image for tasks in bridge mode.
func (c *Cluster) buildImages(ctx context.Context) error {
	c.Image = filepath.Base(c.Dir) + "/modelserver"
	program := filepath.Join(c.bin, "e2e", "modelserver")
	for _, variant := range variants {
		if err := importImage(ctx, c.Dir, program, c.Image+":"+variant,
			"ENV MODELSERVER_VARIANT="+variant); err != nil {
			return err
		}
	}
	// The pause container only needs to run.
	if err := importImage(ctx, c.Dir, program, c.pauseImage(), `CMD ["-listen", "127.0.0.1:0"]`); err != nil {
		return err
	}
	if !c.options.Registry {
		return nil
	}
	if err := c.startRegistry(ctx); err != nil {
		return err
	}
	return c.push(ctx)
}

func (c *Cluster) pauseImage() string { return filepath.Base(c.Dir) + "/pause:local" }

// tool returns the path of a real server, and builds it if it is missing.
func (c *Cluster) tool(ctx context.Context, name string) (string, error) {
	out, err := c.run(ctx, "scripts/tools", "--path", name)
	return strings.TrimSpace(out), err
}

// Program returns the path of a shipped program.
func (c *Cluster) Program(name string) string { return filepath.Join(c.bin, name) }
