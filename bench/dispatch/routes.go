package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// route is one way to the backend of the overhead measurement.
type route struct {
	name    string
	process *process
	p50     []time.Duration // at one connection, by round
	many    []cost          // requests at 64 connections
	paced   []cost          // paced events
	flood   []cost          // events as fast as possible
	broken  int64           // streams that ended early
}

// cost is the result of one part of a round.
type cost struct {
	rate float64       // per second
	cpu  time.Duration // of the proxy per unit; 0 for the direct route
}

// step is a route that is not yet started.
type step struct {
	name    string
	command func(listen string) ([]string, error)
}

// layRoutes starts the backend and every proxy in front of it. It leaves out a built peer that is
// missing and cannot be built, and prints why.
func layRoutes(ctx context.Context, gateway, dir string) ([]*route, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var routes []*route
	var backend string
	lay := func(s step) error {
		listen, err := freeAddress()
		if err != nil {
			return err
		}
		if backend == "" {
			backend = listen
		}
		line, err := s.command(listen)
		if err != nil {
			return err
		}
		p, err := launch(ctx, line, listen)
		if err == nil {
			routes = append(routes, &route{name: s.name, process: p})
		}
		return err
	}
	f := fleet{25 * time.Millisecond}
	steps := []step{
		{"direct", func(listen string) ([]string, error) { return []string{self, "-serve", "backend", listen}, nil }},
		{"plain Go ReverseProxy, tuned", func(listen string) ([]string, error) {
			return []string{self, "-serve", "plain", listen, backend}, nil
		}},
	}
	for _, v := range variants {
		steps = append(steps, step{v.name, func(listen string) ([]string, error) {
			return oneReplica(gateway, dir, listen, backend, v)
		}})
	}
	steps = append(steps,
		step{haproxyName, func(listen string) ([]string, error) {
			return haproxyCommand(dir, listen, f, []string{backend}, "leastconn", "")
		}},
		step{"nginx", func(listen string) ([]string, error) {
			return nginxCommand(dir, listen, f, []string{backend}, "auto") // one per core, as HAProxy and Go use
		}})
	for _, s := range steps {
		if err := lay(s); err != nil {
			return routes, err
		}
	}
	for _, p := range builtPeers {
		program, err := p.program(ctx)
		if err == nil {
			err = lay(step{p.name, func(listen string) ([]string, error) {
				return p.command(program, dir, listen, backend)
			}})
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "overhead: skipping %s: %v\n", p.name, err)
		}
	}
	return routes, nil
}

// program returns the path of a peer's program. It builds the program first if it is missing and
// the build is quick.
func (p builtPeer) program(ctx context.Context) (string, error) {
	if p.asked && os.Getenv("ALIQUOT_"+strings.ToUpper(p.tool)) == "" {
		return "", fmt.Errorf("its build takes half an hour or more: run scripts/tools --path %s and name the "+
			"program by ALIQUOT_%s", p.tool, strings.ToUpper(p.tool))
	}
	return built(ctx, p.tool)
}

// built returns the path of a program of tools/, which it builds first if missing.
func built(ctx context.Context, tool string) (string, error) {
	cmd := exec.CommandContext(ctx, "scripts/tools", "--path", tool)
	var failure bytes.Buffer
	cmd.Stderr = &failure
	path, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, lastLine(failure.String()))
	}
	return strings.TrimSpace(string(path)), nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// variant is a configuration of the gateway: additions to its listen and service blocks.
type variant struct{ name, listen, service string }

const (
	gatewayName = "aliquot gateway"
	haproxyName = "HAProxy"
)

// variants are measured side by side. The first is the default configuration.
var variants = []variant{
	{gatewayName, "", ""},
	{gatewayName + ", net/http towards clients", plainServer, ""},
	{gatewayName + ", net/http on both sides", plainServer, plainClient},
	{gatewayName + ", counting tokens", "", "  policy = \"tokens\"\n  engine {\n    metrics = \"off\"\n  }\n"},
}

const (
	plainServer = "  server = \"net/http\"\n"
	plainClient = "  upstream {\n    client = \"net/http\"\n  }\n"
)

func oneReplica(program, dir, listen, backend string, v variant) ([]string, error) {
	name := "gateway" + strings.Map(func(r rune) rune {
		if strings.ContainsRune(" ,/", r) {
			return '-'
		}
		return r
	}, v.name) + ".hcl"
	path, err := write(dir, name, fmt.Sprintf(`access_log = "off"
listen {
  address = %q
%s}
admin {
  address = "127.0.0.1:0"
}
drain {
  delay = "0s"
}
service "bench" {
%s  replica {
    address   = %q
    class     = "c25"
    slots     = 1024
    kv_tokens = 1000000
  }
}
`, listen, v.listen, v.service, backend))
	return []string{program, "gateway", "-config", path}, err
}

// builtPeer is a proxy that is built from its Go module.
type builtPeer struct {
	name, tool string
	asked      bool // not built automatically
	command    func(program, dir, listen, backend string) ([]string, error)
}

var builtPeers = []builtPeer{{"Caddy", "caddy", false, caddyCommand}, {"Traefik", "traefik", true, traefikCommand}}

func caddyCommand(program, dir, listen, backend string) ([]string, error) {
	_, port, _ := strings.Cut(listen, ":")
	path, err := write(dir, "Caddyfile", fmt.Sprintf(`{
	admin off
	auto_https off
	persist_config off
	storage file_system %s
	log {
		level ERROR
	}
}
:%s {
	bind 127.0.0.1
	reverse_proxy %s
}
`, filepath.Join(dir, "caddy"), port, backend))
	return []string{program, "run", "--config", path, "--adapter", "caddyfile"}, err
}

func traefikCommand(program, dir, listen, backend string) ([]string, error) {
	path, err := write(dir, "traefik.yaml", fmt.Sprintf(`http:
  routers:
    all:
      rule: PathPrefix(`+"`/`"+`)
      service: fleet
  services:
    fleet:
      loadBalancer:
        servers:
          - url: http://%s
`, backend))
	return []string{program, "--entrypoints.web.address=" + listen, "--providers.file.filename=" + path,
		"--global.checknewversion=false", "--global.sendanonymoususage=false", "--log.level=ERROR"}, err
}
