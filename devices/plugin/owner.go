package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"aliquot.example/internal/gpu"
)

// owner is the Nomad task that a process belongs to.
type owner struct {
	alloc, task string
	// instances are the device instance IDs that the task was granted.
	instances []string
}

// owners finds the owner of a process by its cgroup, which a process cannot choose: either the scope
// of a Nomad exec task, or a container, which it looks up in the container engine. The fallback is
// the environment of the process.
type owners struct {
	proc, cgroup string
	engine       *http.Client

	mu sync.Mutex
	// known caches owners by cgroup; names of containers and scopes are never reused.
	known map[string]owner
}

func newOwners(socket string) *owners {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &owners{
		proc: "/proc", cgroup: "/sys/fs/cgroup", known: map[string]owner{},
		engine: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
			Timeout: 2 * time.Second},
	}
}

var (
	containerID = regexp.MustCompile(`(?:^|[^0-9a-f])([0-9a-f]{64})(?:[^0-9a-f]|$)`)
	nomadScope  = regexp.MustCompile(`/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([^/]+)\.scope(?:/|$)`)
)

// of returns the owners of those pids that have one, and forgets the cgroups of all other processes.
func (w *owners) of(ctx context.Context, pids []int) map[int]owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	out, live := map[int]owner{}, map[string]owner{}
	for _, pid := range pids {
		cgroup := cgroupPath(w.read(pid, "cgroup"))
		o, ok := w.known[cgroup]
		if !ok {
			o, ok = w.find(ctx, pid, cgroup)
		}
		if !ok {
			continue
		}
		out[pid] = o
		if containerID.MatchString(cgroup) || nomadScope.MatchString(cgroup) {
			live[cgroup] = o
		}
	}
	w.known = live
	return out
}

func (w *owners) find(ctx context.Context, pid int, cgroup string) (owner, bool) {
	if m := containerID.FindStringSubmatch(cgroup); m != nil {
		if o, err := w.container(ctx, m[1]); err == nil && len(o.instances) > 0 {
			return o, true
		}
	}
	if m := nomadScope.FindStringSubmatch(cgroup); m != nil {
		for _, other := range w.members(cgroup) {
			if o := ownerOf(w.environ(other)); o.alloc == m[1] && len(o.instances) > 0 {
				o.task = m[2]
				return o, true
			}
		}
	}
	o := ownerOf(w.environ(pid))
	return o, len(o.instances) > 0
}

func (w *owners) read(pid int, file string) []byte {
	text, _ := os.ReadFile(filepath.Join(w.proc, strconv.Itoa(pid), file))
	return text
}

func (w *owners) environ(pid int) []string {
	var env []string
	for _, e := range bytes.Split(w.read(pid, "environ"), []byte{0}) {
		env = append(env, string(e))
	}
	return env
}

// members lists the processes of a cgroup.
func (w *owners) members(cgroup string) []int {
	text, _ := os.ReadFile(filepath.Join(w.cgroup, cgroup, "cgroup.procs"))
	var pids []int
	for _, line := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(line); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// container reads the environment with which a container was created from the container engine.
func (w *owners) container(ctx context.Context, id string) (owner, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/"+id+"/json", nil)
	if err != nil {
		return owner{}, err
	}
	response, err := w.engine.Do(request)
	if err != nil {
		return owner{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return owner{}, fmt.Errorf("the container engine answers %s", response.Status)
	}
	var inspect struct {
		Config struct {
			Env    []string
			Labels map[string]string
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&inspect); err != nil {
		return owner{}, err
	}
	o := ownerOf(inspect.Config.Env)
	if o.alloc == "" {
		o.alloc = inspect.Config.Labels["com.hashicorp.nomad.alloc_id"]
	}
	return o, nil
}

// cgroupPath returns the path in the unified hierarchy, or without one the path of the first line
// that names a container or a Nomad task.
func cgroupPath(text []byte) string {
	best := ""
	for _, line := range strings.Split(string(text), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		if best == "" && (containerID.MatchString(parts[2]) || nomadScope.MatchString(parts[2])) {
			best = parts[2]
		}
		if parts[0] == "0" && len(parts[2]) > 1 {
			return parts[2]
		}
	}
	return best
}

func ownerOf(env []string) owner {
	var o owner
	for _, e := range env {
		key, value, _ := strings.Cut(e, "=")
		// A process may put any bytes there, but labels and messages must be valid text.
		value = strings.ToValidUTF8(value, "?")
		switch key {
		case "NOMAD_ALLOC_ID":
			o.alloc = value
		case "NOMAD_TASK_NAME":
			o.task = value
		case gpu.EnvInstances:
			if value != "" {
				o.instances = strings.Split(value, ",")
			}
		}
	}
	return o
}
