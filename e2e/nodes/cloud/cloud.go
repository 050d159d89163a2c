// Package cloud is a cloud with one scaling group of nodes, as far as a target of the Nomad
// Autoscaler uses one.
package cloud

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
)

// Group is the state of the scaling group.
type Group struct {
	// Closed is set while no node may be started or ended.
	Closed bool
	// Wanted is how many nodes are there or starting.
	Wanted int
	// Nodes are the names of those that were started.
	Nodes []string
}

// Cloud starts and ends nodes.
type Cloud struct {
	// Start starts the agent of a node and returns when it has joined; End ends one.
	Start func(name string) error
	End   func(name string)
	// Failed takes what went wrong with a start.
	Failed func(error)

	mu      sync.Mutex
	group   Group
	started int
	starts  sync.WaitGroup
}

// Now is the state of the group.
func (c *Cloud) Now() Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Group{c.group.Closed, c.group.Wanted, slices.Clone(c.group.Nodes)}
}

// Close says whether nodes may be started and ended from now on.
func (c *Cloud) Close(closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group.Closed = closed
}

// Wait waits until all starts have ended.
func (c *Cloud) Wait() { c.starts.Wait() }

// Handler answers the target.
func (c *Cloud) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /group", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(c.Now())
	})
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, r *http.Request) {
		wanted, err := strconv.Atoi(r.FormValue("wanted"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.start(wanted)
	})
	mux.HandleFunc("POST /end", func(_ http.ResponseWriter, r *http.Request) { c.end(r.FormValue("node")) })
	return mux
}

// start starts what is missing, and does not wait for it.
func (c *Cloud) start(wanted int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; c.group.Wanted < wanted; c.group.Wanted++ {
		c.started++
		name := fmt.Sprintf("rented-%d", c.started)
		c.starts.Go(func() {
			if err := c.Start(name); err != nil {
				c.Failed(err)
				return
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.group.Nodes = append(c.group.Nodes, name)
		})
	}
}

func (c *Cloud) end(name string) {
	c.mu.Lock()
	i := slices.Index(c.group.Nodes, name)
	if i >= 0 {
		c.group.Nodes = slices.Delete(c.group.Nodes, i, i+1)
		c.group.Wanted--
	}
	c.mu.Unlock()
	if i >= 0 {
		c.End(name)
	}
}
