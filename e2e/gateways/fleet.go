// Package gateways runs several gateway processes of the shipped program, with a real Consul and
// with replicas that count what they serve, for tests and for bench/gateways.
package gateways

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Service is the name of the service that all gateways of a fleet serve.
const Service = "app"

// Options describes a Fleet.
type Options struct {
	Program string // path of aliquot
	Consul  string // path of consul
	Dir     string // for configurations, logs and Consul's data
	// Gateways is the number of gateways; Replicas are the replicas that each of them knows.
	Gateways int
	Replicas []*Replica
	// TLS is the peers block's TLS setting with its files, in which {index} is the gateway's index;
	// "off" for none.
	TLS string
	// Service and Settings are additional lines of the service block and of the configuration.
	Service, Settings string
	// Hosts puts every gateway on its own host; nil puts all on this one.
	Hosts *Hosts
	// Between, if set, starts a proxy between the gateways and Consul and returns the proxy's
	// address.
	Between func(consul string) (address string, end func(), err error)
}

// Fleet is a set of gateways with Consul and replicas.
type Fleet struct {
	options  Options
	Consul   *Consul
	Gateways []*Gateway
	between  string // Consul's address for the gateways
	end      func() // of Options.Between
}

// Open starts Consul and the gateways and returns when all agree on an owner. On error it leaves
// nothing behind.
func Open(ctx context.Context, o Options) (f *Fleet, err error) {
	f = &Fleet{options: o}
	defer func() {
		if err != nil {
			f.End()
		}
	}()
	if f.Consul, err = startConsul(ctx, o); err != nil {
		return f, err
	}
	f.between, f.end = f.Consul.Address, func() {}
	if o.Between != nil {
		if f.between, f.end, err = o.Between(f.Consul.Address); err != nil {
			return f, err
		}
	}
	for i := range o.Gateways {
		g, err := f.newGateway(i)
		if err != nil {
			return f, err
		}
		f.Gateways = append(f.Gateways, g)
		if err := g.Start(ctx); err != nil {
			return f, err
		}
	}
	_, err = f.Settled(ctx)
	return f, err
}

// End ends all processes.
func (f *Fleet) End() {
	for _, g := range f.Gateways {
		g.Kill()
	}
	if f.end != nil {
		f.end()
	}
	if f.Consul != nil {
		f.Consul.Kill()
	}
}

// Live returns the gateways whose process is running.
func (f *Fleet) Live() (live []*Gateway) {
	for _, g := range f.Gateways {
		if g.running() && !g.stopped.Load() {
			live = append(live, g)
		}
	}
	return live
}

// Settled waits until one of the running gateways owns the service and all others follow it, and
// returns the owner. A single gateway, which has no peers block, is the owner.
func (f *Fleet) Settled(ctx context.Context) (owner *Gateway, err error) {
	if len(f.Gateways) == 1 {
		return f.Gateways[0], nil
	}
	return f.settled(ctx, f.Live())
}

func (f *Fleet) settled(ctx context.Context, among []*Gateway) (owner *Gateway, err error) {
	err = Await(ctx, "one owner that all follow", func() string {
		owner = nil
		var roles []string
		epochs := map[uint64]bool{}
		for _, g := range among {
			s, err := g.State(ctx)
			if err != nil {
				return fmt.Sprintf("gateway %d: %v", g.Index, err)
			}
			roles = append(roles, fmt.Sprintf("gateway %d is %s of %s in %d", g.Index, s.Role, s.Owner, s.Epoch))
			epochs[s.Epoch] = true
			if s.Role == "owner" && owner == nil {
				owner = g
			} else if s.Role != "member" {
				owner = nil
				break
			}
		}
		if owner == nil || len(epochs) != 1 {
			return strings.Join(roles, ", ")
		}
		return ""
	})
	return owner, err
}

// waitFor is Await's timeout.
var waitFor = time.Minute

// Await polls a condition until it holds. The condition returns "" when it holds and otherwise what
// is missing, which becomes part of the error.
func Await(ctx context.Context, what string, missing func() string) error {
	ctx, cancel := context.WithTimeout(ctx, waitFor)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		why := missing()
		if why == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %s (%w)", what, why, ctx.Err())
		}
	}
}

// process is a running program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// spawn starts a program that ends with this one. Its output is appended to the file log.
func spawn(log string, hosts *Hosts, on int, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if hosts != nil && on >= 0 {
		path, args = hosts.command(on, path, args...)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(log)}
	cmd.Stdout, cmd.Stderr = out, out
	p := &process{cmd: cmd, done: make(chan struct{}), log: log}
	if err := start(cmd); err != nil {
		return nil, err
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

var (
	starting sync.Once
	starts   chan func()
)

// start starts a command from a thread that lives as long as this process, because the kernel kills
// the command when the thread that started it ends.
func start(cmd *exec.Cmd) error {
	starting.Do(func() {
		starts = make(chan func())
		go func() {
			runtime.LockOSThread()
			for do := range starts {
				do()
			}
		}()
	})
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	failed := make(chan error)
	starts <- func() { failed <- cmd.Start() }
	return <-failed
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// why returns an error with the end of the log of a process that has ended.
func (p *process) why() error {
	text, _ := os.ReadFile(p.log)
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return errors.New("it ended: " + string(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n"))))
}
