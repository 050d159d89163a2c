// Package consultest runs a real Consul server for tests and benchmarks.
package consultest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/e2e/ports"
)

// Server is a Consul server, which is also its own agent.
type Server struct {
	Address string // host:port of the HTTP API
	GRPC    string // host:port of xDS
	HTTPS   string // host:port of the HTTP API over TLS, if extra has a "tls" block
	Client  *api.Client
	Dir     string

	path string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts a server with its state in dir, and waits until it leads. extra adds settings to the
// agent's configuration file; Client uses its "token". The caller must call Stop.
func Start(dir string, extra map[string]any) (*Server, error) {
	path, err := binary()
	if err != nil {
		return nil, err
	}
	own, err := ports.Free(5)
	if err != nil {
		return nil, err
	}
	conf := map[string]any{
		"bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "node_name": "node", "server": true,
		"bootstrap_expect": 1,
		"data_dir":         filepath.Join(dir, "data"), "disable_update_check": true, "log_level": "warn",
		"connect": map[string]any{"enabled": true},
		// Without these a single server takes seconds to elect itself.
		"performance":     map[string]any{"raft_multiplier": 1},
		"session_ttl_min": "1s",
		"ports": map[string]int{
			"http": own[0], "grpc": own[1], "server": own[2], "serf_lan": own[3], "grpc_tls": -1, "dns": -1,
			"serf_wan": -1,
		},
	}
	if extra["tls"] != nil {
		conf["ports"].(map[string]int)["https"] = own[4]
	}
	token, _ := extra["token"].(string)
	for k, v := range extra {
		if k != "token" {
			conf[k] = v
		}
	}
	text, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "consul.json"), text, 0o600); err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, path: path, Address: fmt.Sprintf("127.0.0.1:%d", own[0]),
		GRPC: fmt.Sprintf("127.0.0.1:%d", own[1]), HTTPS: fmt.Sprintf("127.0.0.1:%d", own[4])}
	if s.Client, err = api.NewClient(&api.Config{Address: s.Address, Token: token}); err != nil {
		return nil, err
	}
	return s, s.Resume()
}

// binary finds or builds the pinned Consul.
func binary() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		script := filepath.Join(dir, "scripts", "tools")
		if _, missing := os.Stat(script); missing != nil {
			continue
		}
		cmd := exec.Command(script, "--path", "consul")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	return "", errors.New("no scripts/tools above the working directory: run this inside a checkout")
}

// Resume starts a stopped server again with its previous state.
func (s *Server) Resume() error {
	log, err := os.OpenFile(filepath.Join(s.Dir, "consul.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.path, "agent", "-config-file", filepath.Join(s.Dir, "consul.json"))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(s.cmd, s.done)
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// Consul accepts registrations only once the server itself is in the catalog.
		services, _, err := s.Client.Catalog().Node("node", nil)
		if err == nil && services != nil || err != nil && strings.Contains(err.Error(), "Permission denied") {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			text, _ := os.ReadFile(filepath.Join(s.Dir, "consul.log"))
			return fmt.Errorf("consul ended:\n%s", text)
		case <-deadline:
			s.Stop()
			return fmt.Errorf("consul does not lead: %v", err)
		}
	}
}

// Command runs a consul command against the server.
func (s *Server) Command(input string, args ...string) error {
	cmd := exec.Command(s.path, args...)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+s.Address)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("consul %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// PID returns the server's process ID.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Stop kills the server. Its state stays.
func (s *Server) Stop() {
	if s == nil || s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.done
}
