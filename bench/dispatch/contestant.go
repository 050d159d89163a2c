package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// contestant is a proxy with its own fleet.
type contestant struct {
	name string
	// config writes the proxy's configuration, with the address to listen on and the replicas, and
	// returns the command to run.
	config func(dir, listen string, f fleet, addresses []string) ([]string, error)
}

// gateways is how many contestants are gateways; they come first.
const gateways = 3

// sendingAhead lets the replicas queue a request themselves, as the peers without a queue do.
var sendingAhead = variant{gatewayName + ", one sent ahead", "", "  queue {\n    send_ahead = 1\n  }\n"}

// contestants returns the gateway, with its defaults, with net/http on both sides and sending requests
// ahead, and its strongest peers. Each knows the relative speeds of the replicas: the gateway and the weighted
// peers by weights, HAProxy's queue by the order of its servers.
func contestants(gateway string) []contestant {
	return []contestant{
		{gatewayName, func(dir, listen string, f fleet, addresses []string) ([]string, error) {
			return gatewayCommand(gateway, dir, listen, f, addresses, variants[0])
		}},
		{variants[2].name, func(dir, listen string, f fleet, addresses []string) ([]string, error) {
			return gatewayCommand(gateway, dir, listen, f, addresses, variants[2])
		}},
		{sendingAhead.name, func(dir, listen string, f fleet, addresses []string) ([]string, error) {
			return gatewayCommand(gateway, dir, listen, f, addresses, sendingAhead)
		}},
		{"HAProxy queue, first", func(dir, listen string, f fleet, addresses []string) ([]string, error) {
			return haproxyCommand(dir, listen, f, addresses, "first", " maxconn 1")
		}},
		{"HAProxy leastconn", func(dir, listen string, f fleet, addresses []string) ([]string, error) {
			return haproxyCommand(dir, listen, f, addresses, "leastconn", "")
		}},
		{"nginx least_conn", func(dir, listen string, f fleet, addresses []string) ([]string, error) {
			// Each worker counts its own connections, so several workers would choose worse.
			return nginxCommand(dir, listen, f, addresses, "1")
		}},
	}
}

// weight returns the weight of a replica relative to the slowest.
func (f fleet) weight(i int) int { return int(f[len(f)-1] / f[i]) }

func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

func gatewayCommand(program, dir, listen string, f fleet, addresses []string, v variant) ([]string, error) {
	var b strings.Builder
	fmt.Fprintf(&b,
		"access_log = \"off\"\nlisten {\n  address = %q\n%s}\nadmin {\n  address = \"127.0.0.1:0\"\n}\ndrain {\n  "+
			"delay = \"0s\"\n}\nservice \"bench\" {\n%s", listen, v.listen, v.service)
	for i, address := range addresses {
		fmt.Fprintf(&b,
			"  replica {\n    address = %q\n    class   = \"c%d\"\n    weight  = %d\n    slots   = 1\n  }\n", address,
			f[i].Milliseconds(), f.weight(i))
	}
	b.WriteString("}\n")
	path, err := write(dir, "gateway.hcl", b.String())
	return []string{program, "gateway", "-config", path}, err
}

func haproxyCommand(dir, listen string, f fleet, addresses []string, balance, server string) ([]string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `global
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  timeout queue 120s
  option http-keep-alive
  http-reuse always
frontend in
  bind %s
  default_backend out
backend out
  balance %s
`, listen, balance)
	for i, address := range addresses {
		fmt.Fprintf(&b, "  server s%d %s weight %d%s\n", i, address, f.weight(i), server)
	}
	path, err := write(dir, "haproxy.cfg", b.String())
	return []string{"haproxy", "-db", "-q", "-f", path}, err
}

func nginxCommand(dir, listen string, f fleet, addresses []string, workers string) ([]string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `worker_processes %[2]s;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
events { worker_connections 8000; }
http {
  access_log off;
  client_body_temp_path %[1]s;
  proxy_temp_path %[1]s;
  fastcgi_temp_path %[1]s;
  uwsgi_temp_path %[1]s;
  scgi_temp_path %[1]s;
  keepalive_requests 1000000;
  upstream fleet {
    least_conn;
`, dir, workers)
	for i, address := range addresses {
		fmt.Fprintf(&b, "    server %s weight=%d max_fails=0;\n", address, f.weight(i))
	}
	fmt.Fprintf(&b, `    keepalive 1024;
    keepalive_requests 1000000;
  }
  server {
    listen %s;
    location / {
      proxy_pass http://fleet;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_read_timeout 120s;
      proxy_buffering off;
    }
  }
}
`, listen)
	path, err := write(dir, "nginx.conf", b.String())
	return []string{"nginx", "-c", path, "-e", filepath.Join(dir, "nginx.log")}, err
}

// process is a program started by the benchmark. It ends with the benchmark.
type process struct {
	cmd *exec.Cmd
	url string
}

// launch runs a command and waits until it listens on an address.
func launch(ctx context.Context, command []string, listen string) (*process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = apart()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", command[0], err)
	}
	p := &process{cmd, "http://" + listen}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		c, err := net.Dial("tcp", listen)
		if err == nil {
			c.Close()
			return p, nil
		}
		select {
		case <-ctx.Done():
			p.end()
			return nil, fmt.Errorf("%s does not listen at %s", command[0], listen)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *process) end() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		p.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill()
		<-done
	}
}

// freeAddress returns an address on which nothing listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
