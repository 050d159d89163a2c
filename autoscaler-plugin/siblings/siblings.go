// Package siblings watches over the other plugins that the agent has started.
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

// Watch watches over the other plugins of Aliquot that the agent has
// started, for as long as the agent lives. The agent (v0.5.0) does not start a
// plugin again whose process is gone, killed for memory for example: it looks
// healthy, evaluates its policies and can scale nothing. So an agent that has lost
// one is ended, with a line in its log that says why, and its supervisor
// restarts it with all of them.
func Watch(log hclog.Logger) {
	if agent := Agent(); agent > 0 {
		go (&watch{log: log, agent: agent, every: time.Second}).run()
	}
}

// Agent returns the process ID of the agent that started this plugin, 0 when it is
// gone and another process has taken the plugin over.
func Agent() int {
	parent := os.Getppid()
	// In a PID namespace of its own, as Nomad's exec driver makes one, it is the first.
	if parent == 1 && host.Running.TextOr("", "/proc/1/comm") != "nomad-autoscale" {
		return 0
	}
	return parent
}

// patience is how many looks in a row must miss a plugin: when the agent reads its
// configuration again, one may be gone for a moment.
const patience = 5

type watch struct {
	log   hclog.Logger
	agent int // process ID
	every time.Duration
	// missed counts, for every plugin seen once, the looks since it was seen last.
	missed map[string]int
}

func (w *watch) run() {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for ; os.Getppid() == w.agent; <-tick.C {
		names, err := children(host.Running, w.agent)
		if err != nil {
			w.log.Warn("a plugin that is killed will not be noticed", "error", err)
			return
		}
		lost := w.look(names)
		if lost == "" || os.Getppid() != w.agent {
			continue
		}
		w.log.Error("a plugin is gone and the agent does not start it again: the agent is ended, "+
			"so that its supervisor restarts it with all plugins", "plugin", lost)
		if err := syscall.Kill(w.agent, syscall.SIGTERM); err != nil {
			w.log.Error("the agent cannot be ended", "error", err)
		}
	}
}

// look takes the names of the plugins that run now and returns one that is lost,
// "" when none is.
func (w *watch) look(names []string) (lost string) {
	if w.missed == nil {
		w.missed = map[string]int{}
	}
	for name := range w.missed {
		w.missed[name]++
	}
	for _, name := range names {
		if _, ok := w.missed[name]; !ok {
			w.log.Debug("watching over another plugin", "plugin", name)
		}
		w.missed[name] = 0
	}
	for name, n := range w.missed {
		if n >= patience {
			lost = name
			w.missed[name] = 0 // to be said again, should the agent stay
		}
	}
	return lost
}

// children names the plugins of Aliquot among a process's children. Names are the
// kernel's, at most 15 characters of the program's.
func children(root host.Root, parent int) (names []string, err error) {
	// The kernel keeps a list per thread: those that the thread has started.
	lists, err := filepath.Glob(filepath.Join(root.Process(parent), "task/*/children"))
	if err != nil || len(lists) == 0 {
		return nil,
			fmt.Errorf("/proc/%d/task has no list of children: is /proc hidden, "+
				"or the kernel built without CONFIG_PROC_CHILDREN?", parent)
	}
	for _, list := range lists {
		pids, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has just ended
		}
		for _, pid := range strings.Fields(string(pids)) {
			if name := root.TextOr("", "/proc", pid, "comm"); strings.HasPrefix(name, "aliquot-") {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
