package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/api"
)

const (
	gateways = 3
	// The numbers of clients that send one request after the other, through HAProxy and by Consul's
	// DNS.
	throughProxy, byDNS = 6, 3
)

// severalGateways runs three gateways with the job file's defaults, with certificates of Consul's
// mesh. Clients reach them in the two ways that the file describes: through HAProxy, with the
// configuration in the file, and by Consul's DNS.
func severalGateways(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	run(ctx, t, c, httpJob, appVars(c, 2), 2)
	vars := cluster.Vars{
		"driver": "raw_exec", "port": 0, "count": gateways,
		"consul": strings.TrimPrefix(c.ConsulAddress, "http://"),
	}
	old := map[string]bool{}
	for _, a := range run(ctx, t, c, gatewayJob, vars, gateways) {
		old[a.ID] = true
	}
	awaitOwner(ctx, t, c)
	l := startLoad(ctx, t, gatewayUnderTest{public: startHAProxy(ctx, t, c)}, throughProxy)
	l.askByDNS(ctx, t, c)
	l.goOn(ctx, t, 50)

	vars["settings"] = `priorities = ["all"]` // a new version of the job
	if _, err := c.Run(gatewayJob, vars); err != nil {
		t.Fatal(err)
	}
	awaitReplaced(ctx, t, c, "gateway", old)
	owner := awaitOwner(ctx, t, c)
	l.goOn(ctx, t, 50)
	if n := l.failed.Load(); n > 0 {
		t.Fatalf("%d of %d requests failed in a rolling update of the gateways", n, l.asked.Load())
	}

	// Only requests in flight at a killed gateway are lost.
	allocation, process := gatewayProcess(t, c, owner)
	crash(t, process)
	awaitRestart(ctx, t, c, allocation)
	awaitOwner(ctx, t, c)
	lost := l.failed.Load()
	if lost > throughProxy+byDNS {
		t.Errorf("%d requests were lost with a gateway that had at most %d", lost, throughProxy+byDNS)
	}
	l.goOn(ctx, t, 50)
	l.stop()
	l.wait.Wait()
	t.Logf("%d requests, %d lost with the gateway that was killed", l.asked.Load(), lost)
	if more := l.failed.Load() - lost; more > 0 {
		t.Errorf("%d more failed when it was back", more)
	}
}

// awaitOwner waits until Consul's checks of all gateways pass and one of them owns the service,
// which all others follow. It returns that gateway's address for peers.
func awaitOwner(ctx context.Context, t *testing.T, c *cluster.Cluster) (owner string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, time.Minute, "one owner among the gateways", func() string {
		found, _, err := c.Consul.Health().Service(api.GatewayService, "", true, nil)
		if err != nil || len(found) != gateways {
			return fmt.Sprintf("%d gateways are well, %v", len(found), err)
		}
		owner = ""
		members := 0
		for _, e := range found {
			var known []api.Service
			g := gatewayUnderTest{admin: "http://" + e.Service.Meta[api.MetaAdmin]}
			if err := g.read("/v1/services", &known); err != nil || len(known) != 1 {
				return fmt.Sprintf("%d services, %v", len(known), err)
			}
			switch s := known[0]; {
			case s.Role == "owner":
				owner = s.Owner
			case s.Role == "member" && s.Owner != "":
				members++
			}
		}
		if owner == "" || members != gateways-1 {
			return fmt.Sprintf("the owner is %q, followed by %d", owner, members)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return owner
}

// startHAProxy starts HAProxy with the configuration in the job file, except for its ports, and
// returns its URL once it reaches a gateway. It ends with the test.
func startHAProxy(ctx context.Context, t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", gatewayJob))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "haproxy.cfg:\n#\n")
	if !found {
		t.Fatalf("%s holds no haproxy.cfg", gatewayJob)
	}
	var config strings.Builder
	for line := range strings.Lines(after) {
		line, more := strings.CutPrefix(line, "#     ")
		if !more {
			break
		}
		config.WriteString(line)
	}
	listen := freeAddress(t)
	replaced := strings.NewReplacer("127.0.0.1:8600", c.ConsulDNS, "bind :8080", "bind "+listen).Replace(config.String())
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(path, []byte(replaced), 0o644); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program = "/usr/sbin/haproxy" // not in users' PATH
	}
	cmd := exec.CommandContext(ctx, program, "-db", "-f", path)
	cmd.Env = append(os.Environ(), c.Mark())
	log := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("haproxy: %v (make setup installs it)", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy.cfg:\n%s\nits log:\n%s", replaced, log)
		}
	})
	g := gatewayUnderTest{public: "http://" + listen}
	err = cluster.AwaitWithin(ctx, 30*time.Second, "an answer through HAProxy", func() string {
		if status, body, err := g.ask(ctx); err != nil || status != http.StatusOK {
			return fmt.Sprintf("%d %q %v", status, body, err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return g.public
}

// askByDNS adds clients to a load that look up the gateways in Consul's DNS for every request, and
// try the next one if a connection is refused.
func (l *load) askByDNS(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, c.ConsulDNS)
	}}
	running, cancel := context.WithCancel(ctx)
	stop := l.stop
	l.stop = func() {
		cancel()
		stop()
	}
	for range byDNS {
		l.wait.Go(func() {
			for running.Err() == nil {
				status, body, err := askOneOf(ctx, resolver)
				l.asked.Add(1)
				if err != nil || status != http.StatusOK {
					l.failed.Add(1)
					t.Logf("failed by DNS: %d %q %v", status, body, err)
				}
			}
		})
	}
}

func askOneOf(ctx context.Context, resolver *net.Resolver) (status int, body string, err error) {
	_, found, err := resolver.LookupSRV(ctx, api.GatewayService, "tcp", "service.consul.")
	if err != nil {
		return 0, "", err
	}
	err = errors.New("Consul's DNS knows no gateway")
	for _, i := range rand.Perm(len(found)) {
		addresses, lookErr := resolver.LookupHost(ctx, found[i].Target)
		if lookErr != nil {
			return 0, "", lookErr
		}
		g := gatewayUnderTest{public: fmt.Sprintf("http://%s:%d", addresses[0], found[i].Port)}
		if status, body, err = g.ask(ctx); !errors.Is(err, syscall.ECONNREFUSED) {
			return status, body, err
		}
	}
	return status, body, err
}

// gatewayProcess returns the allocation and the process of the gateway that listens for peers at an
// address.
func gatewayProcess(t *testing.T, c *cluster.Cluster, peers string) (allocation string, pid int) {
	t.Helper()
	for _, pid := range c.Processes("aliquot") {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue
		}
		values := map[string]string{}
		for one := range strings.SplitSeq(string(environ), "\x00") {
			name, value, _ := strings.Cut(one, "=")
			values[name] = value
		}
		if values["NOMAD_ADDR_peers"] == peers {
			return values["NOMAD_ALLOC_ID"], pid
		}
	}
	t.Fatalf("no process of the gateway at %s", peers)
	return "", 0
}

// awaitRestart waits until Nomad runs the task of an allocation again.
func awaitRestart(ctx context.Context, t *testing.T, c *cluster.Cluster, allocation string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 30*time.Second, "the restart of the gateway", func() string {
		a, _, err := c.Nomad.Allocations().Info(allocation, nil)
		if err != nil {
			return err.Error()
		}
		if s := a.TaskStates["gateway"]; s == nil || s.Restarts != 1 || s.State != "running" {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
}
