package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/ports"
)

// startConsul starts a Consul server that keeps its state in memory, and waits until it is the
// leader.
func (c *Cluster) startConsul(ctx context.Context) error {
	path, err := c.tool(ctx, "consul")
	if err != nil {
		return err
	}
	c.consulDir = filepath.Dir(path)
	own, err := ports.Free(5)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"bind_addr":            "127.0.0.1",
		"client_addr":          "127.0.0.1",
		"node_name":            "aliquot",
		"log_level":            "info",
		"disable_update_check": true,
		"data_dir":             c.path("consul"),
		"ports": map[string]int{
			"http": own[0], "grpc": own[1], "server": own[2], "serf_lan": own[3],
			"dns": own[4], "grpc_tls": -1, "serf_wan": -1,
		},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("consul.json"), config, 0o644); err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", own[0])
	c.ConsulAddress, c.ConsulDNS = "http://"+address, fmt.Sprintf("127.0.0.1:%d", own[4])
	c.Say("starting consul")
	c.consul, err = spawn("consul", c.path("logs", "consul.log"), c.environment(), path,
		"agent", "-dev", "-config-file", c.path("consul.json"))
	if err != nil {
		return err
	}
	if c.Consul, err = consul.NewClient(&consul.Config{Address: address}); err != nil {
		return err
	}
	ctx, cancel := c.consul.context(ctx)
	defer cancel()
	return AwaitWithin(ctx, 60*time.Second, "consul", func() string {
		leader, err := c.Consul.Status().Leader()
		if err == nil && leader == "" {
			return "has no leader"
		}
		return why(err)
	})
}
