package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// proxy is a program in front of the fleet on the wire.
type proxy struct {
	name string
	// model is the policy whose simulation predicts the results of the proxy.
	model func(*rand.Rand, conditions) policy
	// config writes its configuration and returns the command that starts it.
	config func(b *wireBench, listen string, servers []server) ([]string, error)
}

// server is one model server that runs.
type server struct {
	class, address string
	weight         float64 // in the hardware table
	maxSeqs        int
}

// wireBench runs the fleet as processes and plays the same calls through each proxy,
// in turns, and through its simulation.
type wireBench struct {
	dir         string
	aliquot     string
	modelserver string
	race        race
	speedup     float64
}

// wire plays the race on the wire, one seed after the other.
func (o *options) wire(w io.Writer, r race, proxies []proxy) error {
	b := &wireBench{race: r, speedup: o.speedup}
	var err error
	if b.dir, err = os.MkdirTemp("", "aliquot-bench-llm-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.build(); err != nil {
		return err
	}
	measured, model := make([]outcome, len(proxies)), make([]outcome, len(proxies))
	for i, p := range proxies {
		var played, simulated []*sim
		for seed := range r.seeds {
			s, err := b.play(p, uint64(seed+1))
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			played = append(played, s)
			simulated = append(simulated, r.replay(contestant{name: p.name, make: p.model}, uint64(seed+1)))
		}
		measured[i], model[i] = summarise(played), summarise(simulated)
	}
	wireTable(w, proxies, measured, model)
	return nil
}

// build compiles the programs that the bench starts.
func (b *wireBench) build() error {
	b.aliquot, b.modelserver = filepath.Join(b.dir, "aliquot"), filepath.Join(b.dir, "modelserver")
	for path, pkg := range map[string]string{b.aliquot: "aliquot.example/cmd/aliquot",
		b.modelserver: "aliquot.example/e2e/modelserver"} {
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w: %s", pkg, err, out)
		}
	}
	return nil
}

// play starts fresh model servers and the proxy, and plays the calls of a seed.
func (b *wireBench) play(p proxy, seed uint64) (*sim, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running []*process
	defer func() {
		for i := len(running) - 1; i >= 0; i-- {
			running[i].end()
		}
	}()
	start := func(command []string, address string) error {
		one, err := launch(ctx, command, address)
		if err == nil {
			running = append(running, one)
		}
		return err
	}
	var servers []server
	for _, r := range b.race.fleet.replicas() {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		s := server{r.hardware.Class, address, r.weight, r.engine.Config().MaxSeqs}
		if err := start([]string{b.modelserver, "-engine", s.class, "-listen", address,
			"-speedup", fmt.Sprint(b.speedup), "-slots", fmt.Sprint(s.maxSeqs)}, address); err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	command, err := p.config(b, listen, servers)
	if err != nil {
		return nil, err
	}
	if err := start(command, listen); err != nil {
		return nil, err
	}
	calls := cut(b.race.trace, seed, b.race.requests, b.race.rate, b.race.poisson)
	s := &sim{calls: calls, replicas: b.race.fleet.replicas()}
	if err := playCalls("http://"+listen, calls, b.speedup); err != nil {
		return nil, err
	}
	return s, nil
}

// process is a program of the bench's own; it ends with the bench.
type process struct{ cmd *exec.Cmd }

// launch runs a command that will listen at an address and waits until it does.
func launch(ctx context.Context, command []string, listen string) (*process, error) {
	return launchWithin(ctx, 20*time.Second, command, listen)
}

func launchWithin(ctx context.Context, within time.Duration, command []string, listen string) (*process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd}
	ctx, cancel := context.WithTimeout(ctx, within)
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
			return nil, fmt.Errorf("%s does not listen at %s", filepath.Base(command[0]), listen)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *process) end() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	p.cmd.Wait()
}

// freeAddress returns an address that nothing listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (b *wireBench) write(name, text string) (string, error) {
	path := filepath.Join(b.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// chosen are the proxies that the flag names, all where it is empty, without those
// that are not installed.
func (o *options) chosen() []proxy {
	var out []proxy
	for _, p := range proxies {
		if o.policies != nil && !slices.Contains(o.policies, p.name) {
			continue
		}
		if _, err := exec.LookPath(p.name); err != nil && !strings.HasPrefix(p.name, "aliquot") {
			fmt.Fprintf(os.Stderr, "bench/llm: %s is not on PATH: skipping it\n", p.name)
			continue
		}
		out = append(out, p)
	}
	return out
}
