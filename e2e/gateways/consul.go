package gateways

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/ports"
)

// Consul is a Consul server that keeps its data on disk.
type Consul struct {
	Address string // host:port
	Client  *consul.Client
	path    string
	dir     string
	hosts   *Hosts
	on      int // index of the host
	process *process
}

func startConsul(ctx context.Context, o Options) (*Consul, error) {
	host, dir := "127.0.0.1", filepath.Join(o.Dir, "consul")
	if o.Hosts != nil {
		host = o.Hosts.Address(o.Gateways)
	}
	own, err := ports.Free(4)
	if err != nil {
		return nil, err
	}
	c := &Consul{Address: fmt.Sprintf("%s:%d", host, own[0]), path: o.Consul, dir: dir, hosts: o.Hosts,
		on: o.Gateways}
	if c.Client, err = consul.NewClient(&consul.Config{Address: c.Address}); err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"server": true, "bootstrap_expect": 1, "node_name": "test", "bind_addr": host, "client_addr": host,
		"datacenter": "dc1",
		"data_dir":   filepath.Join(dir, "data"), "log_level": "warn", "disable_update_check": true,
		"leave_on_terminate": false,
		"connect":            map[string]any{"enabled": true},
		"performance":        map[string]any{"raft_multiplier": 1},
		"ports": map[string]int{
			"http": own[0], "grpc": own[1], "server": own[2], "serf_lan": own[3], "grpc_tls": -1, "dns": -1,
			"serf_wan": -1,
		},
	})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "consul.json"), config, 0o644); err != nil {
		return nil, err
	}
	return c, c.Start(ctx)
}

// Start starts Consul with its existing data and returns when it is the leader.
func (c *Consul) Start(ctx context.Context) (err error) {
	c.process, err = spawn(filepath.Join(c.dir, "consul.log"), c.hosts, c.on, c.path,
		"agent", "-config-file", filepath.Join(c.dir, "consul.json"))
	if err != nil {
		return err
	}
	return Await(ctx, "Consul leads", func() string {
		if c.process.ended() {
			return c.process.why().Error()
		}
		leader, err := c.Client.Status().Leader()
		switch {
		case err != nil:
			return err.Error()
		case leader == "":
			return "there is no leader"
		}
		return ""
	})
}

// Kill kills Consul, as a crash would.
func (c *Consul) Kill() {
	if c.process != nil {
		c.process.kill()
	}
}

// Lose removes the data of a stopped Consul.
func (c *Consul) Lose() error { return os.RemoveAll(filepath.Join(c.dir, "data")) }

// Hang stops the process with SIGSTOP: it accepts connections but never answers. Continue resumes
// it.
func (c *Consul) Hang() { c.process.signal(syscall.SIGSTOP) }

// Continue resumes the process after Hang.
func (c *Consul) Continue() { c.process.signal(syscall.SIGCONT) }
