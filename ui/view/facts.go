// Package view converts the facts that package watch reads into the values that the page shows. It is
// pure. The page draws the JSON of these values.
package view

import (
	"regexp"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/query"
	"aliquot.example/internal/top"
)

// Facts is the known state of a cluster at one moment. It is immutable.
type Facts struct {
	At time.Time
	// Began is when the program started to watch.
	Began    time.Time
	Sources  []Source
	Nodes    []Node
	Allocs   []Alloc
	Services []Service
	Policies []Policy
	Changes  []Change
	// Splits are the shares that the router wrote, by service and subset, in percent.
	Splits map[string]map[string]float64
	// Served are the requests of the last minute by service and class, for services that a browser
	// shows.
	Served map[string]map[string]int
	// Seen are the changes of health since Began.
	Seen []Seen
	// Next are the present decisions of policies by service, for services whose scaling a browser
	// shows.
	Next map[string][]Next
	// Requests are the slow and failed requests of all gateways, the newest first.
	Requests api.Requests
	// Drivers is the state of the driver rollout.
	Drivers Drivers
}

// Source is a server that the program reads: Nomad, Consul or a gateway. Problem is its last error,
// "" while it answers. Since is when this state began.
type Source struct {
	Name    string    `json:"name"`
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since"`
}

// Node is a Nomad client with GPUs.
type Node struct {
	top.Node
	// Total, Free and Stranded are its capacity in GPUs. Stranded capacity is free, but no task of
	// the typical demand fits into it.
	Total, Free, Stranded float64
	// Unhealthy has the time since which a GPU is unhealthy, by GPU.
	Unhealthy map[string]Since
}

// Since is when a state began. If Seen is false, it began at some time before At.
type Since struct {
	At   time.Time `json:"at"`
	Seen bool      `json:"seen"`
}

// Alloc is an allocation.
type Alloc struct {
	ID, Namespace, Job, Group string
	Node                      string // name
	Desired, Client           string
	Created, Modified         time.Time
	Class                     string // of the granted hardware, "" for none
	Slices                    int
	Events                    []TaskEvent
}

// TaskEvent is a task event of Nomad or a driver.
type TaskEvent struct {
	At         time.Time
	Task, Type string
	Text       string
	Failed     bool
}

// Service is one model service, combined from all its gateways.
type Service struct {
	Name     string
	Queued   int
	Active   map[string]int // by class
	Replicas []api.Replica
	Tokens   *api.Tokens
	Waits    []api.Wait
	Gateways []string
}

// Policy is a scaling policy of aliquot-strategy.
type Policy struct {
	Namespace, Job, Group string
	Service               string
	Query                 query.Query
	QueryProblem          string // why the query cannot be parsed
	// Window is the query window.
	Window   time.Duration
	Enabled  bool
	Min, Max int
	Settings map[string]string
	// ColdStart is the learned cold start of the service, 0 while unknown.
	ColdStart time.Duration
	// Count is the present count in Nomad.
	Count int
	// Rates are the speeds in force and Slots the measured slots, by class. SpeedsFor is how long the
	// speeds have been in force.
	Rates, Slots map[string]float64
	SpeedsFor    time.Duration
	// Curves are the performance curves of the service, if the policy has an objective and a browser
	// shows it. CurvesProblem is why they are unknown.
	Curves        *objective.Known
	CurvesProblem string
}

// Change is a scaling action in Nomad.
type Change struct {
	At             time.Time
	Namespace, Job string
	Group          string
	From, To       int
	Reason         string
	Failed         bool
	// Demand is the demand of the decision, in slots; nil if the action has none.
	Demand *float64
}

// With adds the demand from the action's meta, if it is a number.
func (c Change) With(demand any) Change {
	if v, ok := demand.(float64); ok {
		c.Demand = &v
	}
	return c
}

// Seen is an observed change of health: a GPU or a node became unhealthy or healthy.
type Seen struct {
	At   time.Time
	Node string
	GPU  string // "" for the node
	Bad  bool
	Text string
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// allocOf returns the allocation ID in a replica's ID, "" if there is none.
func allocOf(replica string) string { return uuid.FindString(replica) }
