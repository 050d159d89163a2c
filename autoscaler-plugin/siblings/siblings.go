// Package siblings watches the other plugins that the agent has started.
package siblings

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"aliquot.example/internal/host"
)

// Watch watches Aliquot's other plugins for as long as the agent runs. The agent (v0.5.0) does not
// restart a plugin whose process is gone, for example after an out-of-memory kill: the agent looks
// healthy and evaluates its policies, but cannot scale. Watch therefore terminates an agent that
// has lost a plugin and logs why, so that the agent's supervisor restarts it with all plugins.
func Watch(log hclog.Logger) {
	if agent := Agent(); agent > 0 {
		go (&watch{log: log, agent: agent, every: time.Second}).run()
	}
}

// Agent returns the process ID of the agent that started this plugin, or 0 if the agent is gone and
// another process has adopted the plugin.
func Agent() int {
	parent := os.Getppid()
	// In its own PID namespace, such as that of Nomad's exec driver, the agent is process 1.
	if parent == 1 && host.Running.TextOr("", "/proc/1/comm") != "nomad-autoscale" {
		return 0
	}
	return parent
}

// maxMissed is how many consecutive checks must miss a plugin. A plugin may be gone for a moment
// while the agent reloads its configuration.
const maxMissed = 5

type watch struct {
	log   hclog.Logger
	agent int // process ID
	every time.Duration
	// missed counts, by plugin, the looks since the plugin was last seen.
	missed map[string]int
}

func (w *watch) run() {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for ; os.Getppid() == w.agent; <-tick.C {
		names, err := children(host.Running, w.agent)
		if err != nil {
			w.log.Warn("cannot watch the other plugins: if one is killed, the agent is not restarted", "error", err)
			return
		}
		lost := w.lost(names)
		if lost == "" || os.Getppid() != w.agent {
			continue
		}
		w.log.Error("stopping the agent: a plugin has exited and the agent does not restart it; "+
			"the supervisor restarts the agent with all plugins", "plugin", lost)
		if err := syscall.Kill(w.agent, syscall.SIGTERM); err != nil {
			w.log.Error("cannot stop the agent", "error", err)
		}
	}
}

// lost takes the names of the running plugins and returns one that is lost, or "".
func (w *watch) lost(names []string) (lost string) {
	if w.missed == nil {
		w.missed = map[string]int{}
	}
	for name := range w.missed {
		w.missed[name]++
	}
	for _, name := range names {
		if _, ok := w.missed[name]; !ok {
			w.log.Debug("watching another plugin", "plugin", name)
		}
		w.missed[name] = 0
	}
	for name, n := range w.missed {
		if n >= maxMissed {
			lost = name
			w.missed[name] = 0 // log it again if the agent is still there
		}
	}
	return lost
}

// children returns the names of Aliquot's plugins among the children of a process. The kernel
// truncates names to 15 characters.
func children(root host.Root, parent int) (names []string, err error) {
	// The kernel keeps one list per thread, of the children that this thread started.
	lists, err := filepath.Glob(filepath.Join(root.Process(parent), "task/*/children"))
	if err != nil || len(lists) == 0 {
		return nil,
			fmt.Errorf("/proc/%d/task has no list of children: is /proc hidden, "+
				"or the kernel built without CONFIG_PROC_CHILDREN?", parent)
	}
	for _, list := range lists {
		pids, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has just ended
		}
		for _, pid := range strings.Fields(string(pids)) {
			if name := root.TextOr("", "/proc", pid, "comm"); strings.HasPrefix(name, "aliquot-") {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
