// Package cluster runs a real Consul and real Nomad agents on a rack of fake GPUs, with the shipped
// plugins, for tests and the demo. Stop removes everything that it started. If the program ends in
// any other way, its reaper does so.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/rack"
)

const (
	prefix   = "aliquot-" // of the directory of every cluster
	lockFile = "lock"     // held while the harness of the directory lives
)

// Options describes the cluster to start.
type Options struct {
	// Rack is the name of a shipped rack; "" for a host without GPU libraries.
	Rack string
	// AMD is the host's AMD GPUs; nil for none.
	AMD *AMD
	// Intel is the host's Intel GPUs; nil for none.
	Intel *Intel
	// Host is the host on which the client agent runs; nil for this one.
	Host *Host
	// Device and Driver are additional settings, in HCL, of the device plugin and of the task
	// driver. ${node} in them is the name of the node: "node" for the first.
	Device, Driver string
	// Registry puts the model server's images into a registry of the cluster, so that tasks must
	// pull them.
	Registry bool
	// Volumes are host volumes, by name.
	Volumes map[string]string
	// NoLogs keeps no logs of a start that fails, for tests of exactly that.
	NoLogs bool
	// Progress receives one line per step; nil for none.
	Progress io.Writer
}

// Cluster is a running cluster of one node.
type Cluster struct {
	// Dir holds all files of the cluster, including logs, until Stop.
	Dir    string
	Nomad  *nomad.Client
	Consul *consul.Client
	// NomadAddress and ConsulAddress are the URLs of the servers.
	NomadAddress, ConsulAddress string
	// ConsulDNS is the host:port of Consul's DNS.
	ConsulDNS string
	// Image is the repository of the model server's images, without a tag.
	Image string
	// Registry is the host:port of the cluster's registry, or "".
	Registry string

	// Rack is the host's GPUs, which tests may change; nil without a rack.
	Rack *rack.Rack
	// AMD is the host's AMD GPUs, or nil.
	AMD *rack.AMD
	// Intel is the host's Intel GPUs, or nil.
	Intel *rack.Intel

	options Options
	root    string // of the checkout
	bin     string // of the built programs
	tools   rack.Tools
	// consulDir is the folder that contains the consul program.
	consulDir string
	amdLib    string // folder of the fake libamd_smi.so
	// unfollow stops playing the AMD rack's kernel driver.
	unfollow context.CancelFunc
	started  time.Time
	lock     *os.File
	reaper   *reaper
	registry *process
	consul   *process
	server   *process
	client   *process
	moreLock sync.Mutex
	more     []*process // additional clients
	// values are the template values of the first client's configuration; agentAddress is its URL.
	values       map[string]any
	agentAddress string
	stop         sync.Once
	stopped      error
}

// Start starts a cluster and returns when its node is ready and offers the GPUs of its rack. On
// error it leaves only the logs that the error names.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a Nomad client needs root: run as root, or use make, which uses sudo")
	}
	if missing := DockerMissing(ctx); missing != "" {
		return nil, errors.New(missing)
	}
	sweepStale()
	c := &Cluster{options: o, started: time.Now()}
	if err := c.open(); err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		if !o.NoLogs {
			err = fmt.Errorf("%w\nlogs are kept in %s", err, c.KeepLogs())
		}
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// open creates the directory of the cluster and starts its reaper.
func (c *Cluster) open() (err error) {
	if c.root, err = checkout(); err != nil {
		return err
	}
	// Containers and tasks of other users must be able to read it.
	if c.Dir, err = os.MkdirTemp("", prefix); err != nil {
		return err
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	// The file gets its final name only once it is locked, because an unlocked lock file marks a
	// directory whose harness died.
	if c.lock, err = os.Create(c.path(lockFile + ".new")); err != nil {
		return err
	}
	if err := syscall.Flock(int(c.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	if err := os.Rename(c.path(lockFile+".new"), c.path(lockFile)); err != nil {
		return err
	}
	c.reaper, err = startReaper(c.Dir)
	return err
}

func (c *Cluster) start(ctx context.Context) error {
	for _, name := range []string{"logs", "tmp", "run", "plugins"} {
		if err := os.MkdirAll(c.path(name), 0o755); err != nil {
			return err
		}
	}
	steps := []func(context.Context) error{c.build, c.buildImages, c.buildRack, c.buildAMD, c.buildIntel,
		c.furnishHost, c.startConsul, c.startServer, c.StartAgent, c.awaitDevices}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Stop stops all jobs gracefully, then everything else. It is safe to call more than once.
func (c *Cluster) Stop() error {
	c.stop.Do(func() {
		c.Say("stopping")
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if c.client != nil && c.client.exited() == nil {
			c.stopJobs(ctx)
		}
		for _, p := range c.more {
			p.stop(5 * time.Second)
		}
		c.client.stop(5 * time.Second)
		c.server.stop(2 * time.Second)
		c.consul.stop(2 * time.Second)
		c.registry.stop(2 * time.Second)
		if c.unfollow != nil {
			c.unfollow()
		}
		c.stopped = c.reaper.sweep()
		c.lock.Close()
	})
	return c.stopped
}

// KeepLogs copies the logs to a folder that remains after Stop, and returns its path.
func (c *Cluster) KeepLogs() string {
	kept, err := os.MkdirTemp("", "aliquot-logs-")
	if err != nil {
		return err.Error()
	}
	if err := os.CopyFS(kept, os.DirFS(c.path("logs"))); err != nil {
		return err.Error()
	}
	return kept
}

// Log returns what a server has logged so far.
func (c *Cluster) Log(server string) string {
	text, err := os.ReadFile(c.path("logs", server+".log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}

// Say writes one progress line with the time since the start.
func (c *Cluster) Say(format string, values ...any) {
	if c.options.Progress != nil {
		fmt.Fprintf(c.options.Progress, "%6.1fs  %s\n", time.Since(c.started).Seconds(), fmt.Sprintf(format, values...))
	}
}
