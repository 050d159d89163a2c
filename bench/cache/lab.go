package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"aliquot.example/cache/certtest"
	"aliquot.example/internal/cacheapi"
)

// lab is the namespaces and processes of a run.
type lab struct {
	s      settings
	name   string // prefix of the namespaces
	origin *exec.Cmd
	url    string
	source source
	ca     *certtest.Authority // nil without TLS
	caches []*cacheProcess
}

// peerName is the name in the certificate of every cache.
const peerName = "cache.bench"

type cacheProcess struct {
	cmd *exec.Cmd
	api *cacheapi.Client
	dir string
}

const (
	network   = "10.77.0."
	hubPort   = "7480"
	peerPort  = "7482"
	adminPort = "7481"
)

// address returns the address of a node; node 0 is the origin.
func address(node int) string { return fmt.Sprintf("%s%d", network, node+10) }

func (l *lab) ns(node int) string { return fmt.Sprintf("%s-%d", l.name, node) }

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// open creates a namespace with a bridge, one for each node and one for the origin, and starts all
// processes.
func open(ctx context.Context, s settings, name string) (l *lab, err error) {
	l = &lab{s: s, name: fmt.Sprintf("aliquot-bench-%d-%s", os.Getpid(), name)}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	steps := [][]string{{"netns", "add", l.name}, {"-n", l.name, "link", "add", "br0", "type", "bridge"},
		{"-n", l.name, "link", "set", "br0", "up"}}
	for node := range s.nodes + 1 {
		ns, port := l.ns(node), fmt.Sprintf("p%d", node)
		steps = append(steps,
			[]string{"netns", "add", ns}, []string{"-n", ns, "link", "set", "lo", "up"},
			[]string{"-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", l.name},
			[]string{"-n", l.name, "link", "set", port, "master", "br0", "up"},
			[]string{"-n", ns, "addr", "add", address(node) + "/24", "dev", "eth0"},
			[]string{"-n", ns, "link", "set", "eth0", "up"},
		)
	}
	for _, step := range steps {
		if err := ip(step...); err != nil {
			return l, err
		}
	}
	for node := range s.nodes + 1 {
		for _, end := range [][2]string{{l.ns(node), "eth0"}, {l.name, fmt.Sprintf("p%d", node)}} {
			if err := ip("netns", "exec", end[0], "tc", "qdisc", "add", "dev", end[1],
				"root", "tbf", "rate", fmt.Sprintf("%dmbit", s.mbit), "burst", "256k", "latency", "50ms"); err != nil {
				return l, err
			}
		}
	}
	// Keep the kernel's packet filter out of the links. If the module is not loaded, there is no
	// filter and the command fails.
	filter := exec.Command("ip", "netns", "exec", l.name, "sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0")
	_ = filter.Run()
	if err := l.startOrigin(ctx); err != nil {
		return l, err
	}
	if !s.insecure {
		dir, err := os.MkdirTemp(s.dir, "ca-")
		if err != nil {
			return l, err
		}
		if l.ca, err = certtest.Make(dir); err != nil {
			return l, err
		}
	}
	for node := 1; node <= s.nodes; node++ {
		if err := l.startCache(ctx, node); err != nil {
			return l, err
		}
	}
	return l, nil
}

// in returns a command in a node's namespace. It ends with this program.
func (l *lab) in(ctx context.Context, node int, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.ns(node)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd
}

func (l *lab) startOrigin(ctx context.Context) error {
	l.origin = l.in(ctx, 0, l.s.self, "-origin", address(0), "-kind", l.s.kind, "-mib", fmt.Sprint(l.s.mib))
	out, err := l.origin.StdoutPipe()
	if err != nil {
		return err
	}
	if err := l.origin.Start(); err != nil {
		return err
	}
	text, err := bufio.NewReader(out).ReadString('\n')
	l.url = strings.TrimSpace(text)
	l.source = kinds[l.s.kind].source(l.url)
	return err
}

func (l *lab) startCache(ctx context.Context, node int) error {
	dir := filepath.Join(l.s.dir, l.ns(node))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var known []string
	for n := 1; n <= l.s.nodes; n++ {
		known = append(known, fmt.Sprintf("%q", address(n)+":"+peerPort))
	}
	secure := "insecure = true"
	if l.ca != nil {
		cert, key, err := l.ca.IssueIn(dir, peerName)
		if err != nil {
			return err
		}
		secure = fmt.Sprintf("ca_file = %q\n  cert_file = %q\n  key_file = %q\n  server_name = %q", l.ca.File, cert,
			key, peerName)
	}
	conf := fmt.Sprintf(`
dir       = %q
socket    = %q
hf_listen = "127.0.0.1:%s"
admin     = "127.0.0.1:%s"
keep_free = "0"
log_level = "error"
%s
peer {
  listen    = "%s:%s"
  advertise = "%s:%s"
  service   = ""
  %s
  known     = [%s]
}
`, filepath.Join(dir, "store"), filepath.Join(dir, "s"), hubPort, adminPort, l.source.config,
		address(node), peerPort, address(node), peerPort, secure, strings.Join(known, ", "))
	file := filepath.Join(dir, "cache.hcl")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return err
	}
	c := &cacheProcess{cmd: l.in(ctx, node, l.s.program, "cache", "-config", file),
		api: cacheapi.NewClient(filepath.Join(dir, "s")), dir: dir}
	l.caches = append(l.caches, c)
	if err := c.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := c.api.Status(ctx); err == nil {
			return nil
		} else if time.Now().After(deadline) {
			return fmt.Errorf("cache %d does not answer: %w", node, err)
		}
	}
}

// read returns how many bytes the origin has sent.
func (l *lab) read(ctx context.Context) (int64, error) {
	var n int64
	out, err := l.in(ctx, 0, l.s.self, "-get", l.url+"/-/read").Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &n)
	}
	return n, err
}

// got is what beClient prints about a file.
type got struct {
	First, All time.Duration
	Bytes      int64
}

// get reads a URL from a node's namespace.
func (l *lab) get(ctx context.Context, node int, url string) (g got, err error) {
	out, err := l.in(ctx, node, l.s.self, "-get", url).Output()
	if err == nil {
		err = json.Unmarshal(out, &g)
	}
	return g, err
}

// close ends the processes and removes the namespaces. `ip netns exec` replaces itself by its
// command, so killing it kills the command.
func (l *lab) close() {
	for _, c := range l.caches {
		if c.cmd.Process != nil {
			_ = c.cmd.Process.Signal(syscall.SIGTERM)
			_ = c.cmd.Wait()
		}
		_ = os.RemoveAll(c.dir)
	}
	if l.origin != nil && l.origin.Process != nil {
		_ = l.origin.Process.Kill()
		_ = l.origin.Wait()
	}
	for node := range l.s.nodes + 1 {
		_ = exec.Command("ip", "netns", "del", l.ns(node)).Run()
	}
	_ = exec.Command("ip", "netns", "del", l.name).Run()
}

// beClient reads a URL. For a file, it prints how long that took.
func beClient(ctx context.Context, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	began := time.Now()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if strings.HasSuffix(url, "/-/read") {
		_, err := io.Copy(os.Stdout, res.Body)
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	buffer := make([]byte, 1<<20)
	n, err := res.Body.Read(buffer)
	g := got{First: time.Since(began), Bytes: int64(n)}
	for err == nil {
		n, err = res.Body.Read(buffer)
		g.Bytes += int64(n)
	}
	if err != io.EOF {
		return err
	}
	g.All = time.Since(began)
	return json.NewEncoder(os.Stdout).Encode(g)
}
