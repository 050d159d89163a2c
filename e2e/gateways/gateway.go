package gateways

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"aliquot.example/e2e/ports"
	"aliquot.example/internal/api"
)

// Gateway is one gateway of a fleet.
type Gateway struct {
	Index  int
	Public string // host:port for clients
	Admin  string
	Peers  string // where it listens for the other gateways

	fleet   *Fleet
	process *process
	// stopped is set while the process is stopped by a signal; leaving while it drains, when
	// clients use other gateways; doomed from just before it is killed, when its requests may fail.
	stopped, leaving, doomed atomic.Bool
	// lives counts the processes so far. Replicas forget the requests of a previous process.
	lives atomic.Int64
}

func (f *Fleet) newGateway(i int) (*Gateway, error) {
	host, own := "127.0.0.1", []int{8080, 9090, 7070}
	if h := f.options.Hosts; h != nil {
		host = h.Address(i)
	} else {
		var err error
		if own, err = ports.Free(3); err != nil {
			return nil, err
		}
	}
	at := func(n int) string { return fmt.Sprintf("%s:%d", host, own[n]) }
	return &Gateway{Index: i, Public: at(0), Admin: at(1), Peers: at(2), fleet: f}, nil
}

// Start starts the gateway's process and returns when it is ready.
func (g *Gateway) Start(ctx context.Context) error {
	o := g.fleet.options
	path := filepath.Join(o.Dir, fmt.Sprintf("gateway-%d.hcl", g.Index))
	if err := os.WriteFile(path, []byte(g.configuration()), 0o600); err != nil {
		return err
	}
	g.lives.Add(1)
	var err error
	g.process, err = spawn(filepath.Join(o.Dir, fmt.Sprintf("gateway-%d.log", g.Index)), o.Hosts, g.Index, o.Program,
		"gateway", "-config", path)
	if err != nil {
		return err
	}
	err = Await(ctx, fmt.Sprintf("gateway %d is ready", g.Index), func() string {
		if g.process.ended() {
			return g.process.why().Error()
		}
		res, err := http.Get("http://" + g.Admin + "/v1/ready")
		if err != nil {
			return err.Error()
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return res.Status
		}
		return ""
	})
	g.doomed.Store(false)
	g.leaving.Store(false)
	return err
}

func (g *Gateway) configuration() string {
	o := g.fleet.options
	var b strings.Builder
	fmt.Fprintf(&b, `listen {
  address = %q
}
admin {
  address = %q
}
access_log = "off"
drain {
  delay   = "1s"
  timeout = "30s"
}
consul {
  address  = %q
  register = true
}
%s
`, g.Public, g.Admin, g.fleet.between, o.Settings)
	if o.Gateways > 1 {
		tls := strings.ReplaceAll(o.TLS, "{index}", fmt.Sprint(g.Index))
		fmt.Fprintf(&b, "peers {\n  address = %q\n%s\n}\n", g.Peers, tls)
	}
	fmt.Fprintf(&b, "service %q {\n%s\n", Service, o.Service)
	for _, r := range o.Replicas {
		fmt.Fprintf(&b, "  replica {\n    address = %q\n    class   = %q\n    slots   = %d\n    weight  = %g\n  }\n",
			r.Address, r.Class, r.Slots, r.Weight)
	}
	b.WriteString("}\n")
	return b.String()
}

func (g *Gateway) running() bool { return g.process != nil && !g.process.ended() }

// Doomed reports whether the gateway is being or was killed, so that its requests may fail.
func (g *Gateway) Doomed() bool { return g.doomed.Load() }

// Kill kills the gateway, as a crash would. Replicas no longer count its requests.
func (g *Gateway) Kill() {
	if g.process == nil {
		return
	}
	g.doomed.Store(true)
	g.forget()
	g.process.kill()
	g.stopped.Store(false)
}

func (g *Gateway) forget() {
	for _, r := range g.fleet.options.Replicas {
		r.forget(g)
	}
}

// Hang stops the process with SIGSTOP; Continue resumes it.
func (g *Gateway) Hang() {
	g.stopped.Store(true)
	g.process.signal(syscall.SIGSTOP)
}

// Continue resumes the process after Hang.
func (g *Gateway) Continue() {
	g.process.signal(syscall.SIGCONT)
	g.stopped.Store(false)
}

// Drain terminates the gateway gracefully and returns when its process has ended.
func (g *Gateway) Drain(ctx context.Context) error {
	g.leaving.Store(true)
	g.process.signal(syscall.SIGTERM)
	select {
	case <-g.process.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("gateway %d drains: %w", g.Index, ctx.Err())
	}
}

// CPU returns the processor time that the process has used.
func (g *Gateway) CPU() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.process.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var ticks time.Duration
	for _, field := range fields[11:13] { // user and system, in hundredths of a second
		var n int64
		fmt.Sscan(field, &n)
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

// State returns the service's state at the gateway.
func (g *Gateway) State(ctx context.Context) (api.Service, error) {
	var all []api.Service
	if err := g.read(ctx, "/v1/services", &all); err != nil {
		return api.Service{}, err
	}
	for _, s := range all {
		if s.Service == Service {
			return s, nil
		}
	}
	return api.Service{}, fmt.Errorf("gateway %d does not know the service", g.Index)
}

func (g *Gateway) read(ctx context.Context, path string, into any) error {
	text, err := g.get(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// get sends a GET request to the admin listener.
func (g *Gateway) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Admin+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, text)
	}
	return text, err
}

// Log returns what the gateway has logged.
func (g *Gateway) Log() string {
	text, err := os.ReadFile(g.process.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
