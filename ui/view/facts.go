// Package view makes what the page shows of what the readers know. It is pure: facts
// and a time in, values out, whose JSON the page draws as it comes.
package view

import (
	"regexp"
	"time"

	"aliquot.example/internal/api"
	"aliquot.example/internal/objective"
	"aliquot.example/internal/query"
	"aliquot.example/internal/top"
)

// Facts is what is known of a cluster at one moment. Nothing in it is changed after it
// was handed over.
type Facts struct {
	At time.Time
	// Began is when the program began to watch: what it cannot ask for it knows since.
	Began    time.Time
	Sources  []Source
	Nodes    []Node
	Allocs   []Alloc
	Services []Service
	Policies []Policy
	Changes  []Change
	// Splits are the shares that the router wrote, by service and subset, in percent.
	Splits map[string]map[string]float64
	// Served are requests of the last minute, by service and class, of services that
	// somebody looks at.
	Served map[string]map[string]int
	// Seen are changes of health that the program saw happen.
	Seen []Seen
	// Next is what policies would do now, by service, of services that somebody looks at.
	Next map[string][]Next
	// Requests are those that gateways remember, the newest first.
	Requests api.Requests
	// Drivers are what is wanted of nodes' GPU drivers, and how far they are.
	Drivers Drivers
}

// Source is what the program reads: Nomad, Consul, or a gateway. Problem is "" while it
// answers; Since is when that began.
type Source struct {
	Name    string    `json:"name"`
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since"`
}

// Node is a Nomad client with GPUs.
type Node struct {
	top.Node
	// Total, Free and Stranded count its capacity in GPUs; Stranded is free and fits no
	// task of the typical demand.
	Total, Free, Stranded float64
	// Unhealthy says, by GPU, since when it is unhealthy.
	Unhealthy map[string]Since
}

// Since is when a state began. It was seen to begin then, or else it is only known
// that it began before.
type Since struct {
	At   time.Time `json:"at"`
	Seen bool      `json:"seen"`
}

// Alloc is an allocation that holds GPUs, or is of a group that serves.
type Alloc struct {
	ID, Namespace, Job, Group string
	Node                      string // name
	Desired, Client           string
	Created, Modified         time.Time
	Class                     string // of the hardware that it was granted; "" for none
	Slices                    int
	Events                    []TaskEvent
}

// TaskEvent is what Nomad or a driver said of a task.
type TaskEvent struct {
	At         time.Time
	Task, Type string
	Text       string
	Failed     bool
}

// Service is one model service, as all its gateways together see it.
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
	QueryProblem          string // why the query cannot be read
	// Window is how far back the query reaches.
	Window   time.Duration
	Enabled  bool
	Min, Max int
	Settings map[string]string
	// ColdStart is what starts of the service were measured to take, 0 while unknown.
	ColdStart time.Duration
	// Count is how many Nomad keeps now.
	Count int
	// Rates are the speeds in force, by class, for SpeedsFor.
	Rates, Slots map[string]float64
	SpeedsFor    time.Duration
	// Curves are what is known of how long its replicas take, where it has an objective and
	// somebody looks at it; CurvesProblem is why they are not known.
	Curves        *objective.Known
	CurvesProblem string
}

// Change is a scaling action, as Nomad keeps it.
type Change struct {
	At             time.Time
	Namespace, Job string
	Group          string
	From, To       int
	Reason         string
	Failed         bool
	// Demand, in slots, is what a decision counted with; nil where the action has none.
	Demand *float64
}

// With adds the demand that the action's meta has, where it is a number.
func (c Change) With(demand any) Change {
	if v, ok := demand.(float64); ok {
		c.Demand = &v
	}
	return c
}

// Seen is a change that the program saw happen: a GPU or a node became unhealthy, or
// well again.
type Seen struct {
	At   time.Time
	Node string
	GPU  string // "" for the node
	Bad  bool
	Text string
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// allocOf is the allocation that a replica's ID names; "" for none.
func allocOf(replica string) string { return uuid.FindString(replica) }
