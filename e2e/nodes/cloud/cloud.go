// Package cloud is a cloud with one scaling group of nodes, as far as a target plugin of the Nomad
// Autoscaler needs one.
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
	// Closed is set while no node may be started or stopped.
	Closed bool
	// Wanted is the number of nodes that exist or are starting.
	Wanted int
	// Nodes are the names of the started nodes.
	Nodes []string
}

// Cloud starts and stops nodes.
type Cloud struct {
	// Start starts a node's agent and returns when it has joined; End stops a node.
	Start func(name string) error
	End   func(name string)
	// Failed is called with the error of a failed start.
	Failed func(error)

	mu      sync.Mutex
	group   Group
	started int
	starts  sync.WaitGroup
}

// Now returns the state of the group.
func (c *Cloud) Now() Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Group{c.group.Closed, c.group.Wanted, slices.Clone(c.group.Nodes)}
}

// Close sets whether starting and stopping nodes is forbidden.
func (c *Cloud) Close(closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group.Closed = closed
}

// Wait waits until all starts have finished.
func (c *Cloud) Wait() { c.starts.Wait() }

// Handler returns the HTTP API that the target uses.
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

// start starts the missing nodes without waiting for them.
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
