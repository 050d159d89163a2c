package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/consultoken"
	"aliquot.example/internal/driver"
	"aliquot.example/internal/host"
	"aliquot.example/node"
)

type nodeAgentCommand struct{ ui cli.Ui }

func (nodeAgentCommand) Synopsis() string { return "Manage the GPU driver of this node" }

func (nodeAgentCommand) Help() string {
	return `Usage: aliquot node agent [-key=aliquot/node] [-interval=15s]

  Installs the driver that aliquot node rollout has set, once this node has a slot, and
  keeps it there. The agent runs as root, from jobs/node.nomad.hcl or from systemd. You
  can stop it at any time: it finishes a running installation first, and the next agent
  continues from there.

  The agent finds Nomad by the NOMAD_* variables and Consul by the CONSUL_* variables.
  NOMAD_TOKEN needs node:write and agent:read. jobs/ has the policies.

Options:

  -key       Prefix of the documents in Consul KV. Default aliquot/node.
  -interval  Time between two checks, at least 1s. Default 15s.
  -node      ID of the node in Nomad. Default: that of the agent at NOMAD_ADDR.
  -dir       Folder for the state and for packages. Default /var/lib/aliquot/node.
  -run-dir   run_dir of the device plugins. Default /run/aliquot.
  -root      Root of the host, above -dir and -run-dir. Default /.

Example:

  aliquot node agent
`
}

func (c nodeAgentCommand) Run(args []string) int {
	conf := node.Config{}
	flags := newFlags("node agent", c.ui)
	flags.StringVar(&conf.Prefix, "key", driver.RolloutPrefix, "")
	flags.DurationVar(&conf.Interval, "interval", 15*time.Second, "")
	flags.StringVar(&conf.NodeID, "node", "", "")
	flags.StringVar(&conf.Dir, "dir", "/var/lib/aliquot/node", "")
	flags.StringVar(&conf.RunDir, "run-dir", "/run/aliquot", "")
	flags.StringVar((*string)(&conf.Root), "root", string(host.Running), "")
	if !flags.parse(args) {
		return 2
	}
	if err := wrongAgent(conf); err != nil {
		c.ui.Error("aliquot node agent: " + flat(err) + "; see aliquot node agent -help")
		return 2
	}
	if os.Geteuid() != 0 {
		c.ui.Error("aliquot node agent: not root: it installs packages and loads kernel modules; run it as root")
		return 1
	}
	if err := runNodeAgent(conf); err != nil {
		c.ui.Error("aliquot node agent: " + flat(err))
		return 1
	}
	return 0
}

func wrongAgent(c node.Config) error {
	for flag, path := range map[string]string{"dir": c.Dir, "run-dir": c.RunDir, "root": string(c.Root)} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("-%s=%s: want an absolute path", flag, path)
		}
	}
	switch {
	case c.Prefix == "":
		return errors.New("-key is empty")
	case c.Interval < time.Second:
		return fmt.Errorf("-interval=%s: want at least 1s", c.Interval)
	}
	return nil
}

func runNodeAgent(conf node.Config) error {
	n, err := nomad.NewClient(nomad.DefaultConfig())
	if err != nil {
		return err
	}
	c, err := consultoken.NewClient(consul.DefaultConfig())
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return node.New(conf, n, c, slog.New(slog.NewJSONHandler(os.Stderr, nil))).Run(ctx)
}
