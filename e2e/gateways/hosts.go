package gateways

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Hosts are network namespaces, one for each gateway and one for Consul, connected by a bridge.
// They end with this process.
type Hosts struct {
	Hub     string // the address of this process
	holders []*process
}

// NewHosts creates n hosts around the network namespace of this process, which must not be the
// machine's; see Alone.
func NewHosts(n int, dir string) (*Hosts, error) {
	h := &Hosts{Hub: "10.77.0.254"}
	if err := run("ip", "link", "set", "lo", "up"); err != nil {
		return nil, err
	}
	if err := run("ip", "link", "add", "name", "hub", "type", "bridge"); err != nil {
		return nil, err
	}
	if err := run("ip", "address", "add", h.Hub+"/24", "dev", "hub"); err != nil {
		return nil, err
	}
	if err := run("ip", "link", "set", "hub", "up"); err != nil {
		return nil, err
	}
	for i := range n {
		if err := h.add(i, dir); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Address returns the address of a host.
func (h *Hosts) Address(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) }

// add creates a host: a namespace that a process keeps open.
func (h *Hosts) add(i int, dir string) error {
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	p := &process{cmd: cmd, done: make(chan struct{})}
	if err := start(cmd); err != nil {
		return err
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	h.holders = append(h.holders, p)
	here, there := fmt.Sprintf("host%d", i), "eth0"
	pid := fmt.Sprint(cmd.Process.Pid)
	for _, line := range []string{
		"ip link add " + here + " type veth peer name " + there + " netns " + pid,
		"ip link set " + here + " master hub up",
	} {
		if err := run(strings.Fields(line)...); err != nil {
			return err
		}
	}
	for _, line := range []string{"ip address add " + h.Address(i) + "/24 dev " + there, "ip link set lo up",
		"ip link set " + there + " up"} {
		if err := h.on(i, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// command returns the command line that runs a program on a host.
func (h *Hosts) command(i int, path string, args ...string) (string, []string) {
	return "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", h.holders[i].cmd.Process.Pid),
		path}, args...)
}

func (h *Hosts) on(i int, command ...string) error {
	path, args := h.command(i, command[0], command[1:]...)
	return run(append([]string{path}, args...)...)
}

func run(command ...string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Cut is one direction of a broken network: host To receives nothing from host From.
type Cut struct{ To, From int }

// Both returns the cuts of a network that carries nothing between two hosts.
func Both(i, j int) []Cut { return []Cut{{i, j}, {j, i}} }

// Break drops all packets of a direction.
func (h *Hosts) Break(c Cut) error { return h.rule("-A", c) }

// Mend undoes Break.
func (h *Hosts) Mend(c Cut) error { return h.rule("-D", c) }

func (h *Hosts) rule(do string, c Cut) error {
	return h.on(c.To, "iptables", "-w", do, "INPUT", "-s", h.Address(c.From), "-j", "DROP")
}
