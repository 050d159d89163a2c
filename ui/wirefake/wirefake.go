// Package wirefake is a fake of Nomad's, Consul's and the gateways' HTTP APIs for a cluster of any
// size, for tests of the web page.
package wirefake

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/api"
)

// Cluster has the data of the answers. Change it within Do.
type Cluster struct {
	Nodes    []*nomad.NodeListStub
	Allocs   []*nomad.AllocationListStub
	Stats    map[string]*nomad.HostStats // by node
	Policies []*nomad.ScalingPolicy
	Scale    map[string]*nomad.JobScaleStatusResponse // by job
	Services []api.Service
	Series   map[string][]api.Point // by service; a second is reported once it has passed
	Latency  map[string][]api.Latency
	KV       map[string][]byte
	Requests api.Requests
	// Tokens are the tokens that may read; nil if ACLs are off.
	Tokens map[string]bool
	// NomadDown, ConsulDown and GatewayDown make these servers answer 500 or 503.
	NomadDown, ConsulDown, GatewayDown bool

	Server *httptest.Server

	mu      sync.Mutex
	index   uint64
	changed chan struct{}
}

// Start serves an empty cluster.
func Start() *Cluster {
	c := &Cluster{
		Stats: map[string]*nomad.HostStats{}, Scale: map[string]*nomad.JobScaleStatusResponse{},
		Series: map[string][]api.Point{}, Latency: map[string][]api.Latency{}, KV: map[string][]byte{},
		index: 1, changed: make(chan struct{}),
	}
	c.Server = httptest.NewServer(c.mux())
	return c
}

// Do changes the cluster, and ends blocking queries.
func (c *Cluster) Do(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.index++
	close(c.changed)
	c.changed = make(chan struct{})
}

// Clients returns clients of the cluster's Nomad and Consul.
func (c *Cluster) Clients() (*nomad.Client, *consul.Client, error) {
	n, err := nomad.NewClient(&nomad.Config{Address: c.Server.URL, SecretID: "own"})
	if err != nil {
		return nil, nil, err
	}
	s, err := consul.NewClient(&consul.Config{Address: c.Server.URL})
	return n, s, err
}

func (c *Cluster) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/nodes", c.nomadList(func() any { return c.Nodes }))
	mux.HandleFunc("GET /v1/allocations", c.nomadList(func() any { return c.Allocs }))
	mux.HandleFunc("GET /v1/client/stats", c.nomadList(func() any { return nil }))
	mux.HandleFunc("GET /v1/namespaces", c.nomadList(func() any { return []*nomad.Namespace{{Name: "default"}} }))
	mux.HandleFunc("GET /v1/jobs", c.nomadList(func() any { return []*nomad.JobListStub{} }))
	mux.HandleFunc("GET /v1/scaling/policies", c.nomadList(c.policyStubs))
	mux.HandleFunc("GET /v1/scaling/policy/{id}", c.servePolicy)
	mux.HandleFunc("GET /v1/job/{id}/scale", c.serveScale)
	mux.HandleFunc("GET /v1/acl/policies", c.servePolicies)
	mux.HandleFunc("GET /v1/health/service/{name}", c.serveHealth)
	mux.HandleFunc("GET /v1/kv/{key...}", c.serveKV)
	mux.HandleFunc("GET /v1/config/{kind}/{name}", func(w http.ResponseWriter, _ *http.Request) {
		http.NotFound(w, nil)
	})
	mux.HandleFunc("GET /v1/services", c.gateway(func(*http.Request) any { return c.Services }))
	mux.HandleFunc("GET /v1/requests", c.gateway(func(*http.Request) any { return c.Requests }))
	mux.HandleFunc("GET /v1/services/{name}/concurrency", c.gateway(c.concurrency))
	mux.HandleFunc("GET /v1/services/{name}/latency", c.gateway(func(r *http.Request) any {
		out := api.Latencies{Now: time.Now(), Series: []api.Latency{}}
		for _, p := range c.Latency[r.PathValue("name")] {
			if p.Time < out.Now.Unix() {
				out.Series = append(out.Series, p)
			}
		}
		return out
	}))
	return mux
}

// nomadList answers a request for a list. A blocking query waits for a change.
func (c *Cluster) nomadList(list func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		wait, _ := time.ParseDuration(r.FormValue("wait"))
		after, _ := strconv.ParseUint(r.FormValue("index"), 10, 64)
		end := time.After(wait)
		c.mu.Lock()
		defer c.mu.Unlock()
		for waiting := wait > 0; waiting && c.index <= after; {
			changed := c.changed
			c.mu.Unlock()
			select {
			case <-changed:
			case <-end:
				waiting = false
			case <-r.Context().Done():
				waiting = false
			}
			c.mu.Lock()
		}
		if c.NomadDown {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return
		}
		if token := r.Header.Get("X-Nomad-Token"); c.Tokens != nil && !c.Tokens[token] {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		w.Header().Set("X-Nomad-Index", strconv.FormatUint(c.index, 10))
		w.Header().Set("X-Nomad-LastContact", "0")
		w.Header().Set("X-Nomad-KnownLeader", "true")
		v := list()
		if node := r.FormValue("node_id"); node != "" && strings.HasSuffix(r.URL.Path, "/stats") {
			v = c.Stats[node]
		}
		if all, ok := v.([]*nomad.AllocationListStub); ok {
			v = onePage(w, r, all)
		}
		reply(w, v)
	}
}

// onePage returns the requested page of a list, and sets the header with the token of the next one.
func onePage(w http.ResponseWriter, r *http.Request, all []*nomad.AllocationListStub) []*nomad.AllocationListStub {
	size, _ := strconv.Atoi(r.FormValue("per_page"))
	from, _ := strconv.Atoi(r.FormValue("next_token"))
	all = all[min(from, len(all)):]
	if size > 0 && size < len(all) {
		w.Header().Set("X-Nomad-NextToken", strconv.Itoa(from+size))
		all = all[:size]
	}
	return all
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (c *Cluster) policyStubs() any {
	out := []*nomad.ScalingPolicyListStub{}
	for _, p := range c.Policies {
		out = append(out, &nomad.ScalingPolicyListStub{ID: p.ID, Enabled: true, Target: p.Target})
	}
	return out
}

func (c *Cluster) servePolicy(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.Policies {
		if p.ID == r.PathValue("id") {
			reply(w, p)
			return
		}
	}
	http.NotFound(w, r)
}

func (c *Cluster) serveScale(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.Scale[r.PathValue("id")]; s != nil {
		reply(w, s)
		return
	}
	http.NotFound(w, r)
}

func (c *Cluster) servePolicies(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch token := r.Header.Get("X-Nomad-Token"); {
	case c.NomadDown:
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
	case c.Tokens == nil:
		http.Error(w, "ACL support disabled", http.StatusBadRequest)
	case !c.Tokens[token]:
		http.Error(w, "ACL token not found", http.StatusForbidden)
	default:
		reply(w, []*nomad.ACLPolicyListStub{})
	}
}

func (c *Cluster) consulIs(w http.ResponseWriter) bool {
	if c.ConsulDown {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
	}
	return !c.ConsulDown
}

func (c *Cluster) serveHealth(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if after, _ := strconv.ParseUint(r.FormValue("index"), 10, 64); after >= c.index {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		case <-time.After(time.Second):
		}
		c.mu.Lock()
	}
	if !c.consulIs(w) {
		return
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(c.index, 10))
	reply(w, []*consul.ServiceEntry{{Node: &consul.Node{}, Service: &consul.AgentService{
		ID: "gateway-1", Service: api.GatewayService,
		Meta: map[string]string{api.MetaAdmin: strings.TrimPrefix(c.Server.URL, "http://")},
	}}})
}

func (c *Cluster) serveKV(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.consulIs(w) {
		return
	}
	if r.URL.Query().Has("recurse") {
		pairs := []*consul.KVPair{}
		for _, key := range slices.Sorted(maps.Keys(c.KV)) {
			if strings.HasPrefix(key, r.PathValue("key")) {
				pairs = append(pairs, &consul.KVPair{Key: key, Value: c.KV[key]})
			}
		}
		reply(w, pairs)
		return
	}
	value, ok := c.KV[r.PathValue("key")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	reply(w, []*consul.KVPair{{Key: r.PathValue("key"), Value: value}})
}

func (c *Cluster) gateway(v func(*http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.GatewayDown {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		if out := v(r); out != nil {
			reply(w, out)
			return
		}
		http.NotFound(w, r)
	}
}

func (c *Cluster) concurrency(r *http.Request) any {
	series, ok := c.Series[r.PathValue("name")]
	if !ok {
		return nil
	}
	window, _ := time.ParseDuration(r.FormValue("window"))
	out := api.Concurrency{Service: r.PathValue("name"), Now: time.Now(), StepSeconds: 1, Series: []api.Point{}}
	for _, p := range series {
		if p.Time >= out.Now.Add(-window).Unix() && p.Time < out.Now.Unix() {
			out.Series = append(out.Series, p)
		}
	}
	return out
}

// AddNode adds a node with GPUs of that many slices each, all free.
func (c *Cluster) AddNode(name, vendor, class string, gpus, slices int) *nomad.NodeListStub {
	text := func(s string) *nomad.Attribute { return &nomad.Attribute{StringVal: &s} }
	whole := func(n int64) *nomad.Attribute { return &nomad.Attribute{IntVal: &n} }
	node := &nomad.NodeListStub{
		ID: fmt.Sprintf("%08x-0000-4000-8000-%012x", len(c.Nodes)+1, len(c.Nodes)+1), Name: name,
		Status: nomad.NodeStatusReady, SchedulingEligibility: nomad.NodeSchedulingEligible,
		NodeResources: &nomad.NodeResources{Cpu: nomad.NodeCpuResources{CpuShares: 64000},
			Memory: nomad.NodeMemoryResources{MemoryMB: 256 << 10}},
	}
	for g := range gpus {
		group := &nomad.NodeDeviceResource{Vendor: vendor, Type: "gpu", Name: fmt.Sprintf("%s-%d", class, g),
			Attributes: map[string]*nomad.Attribute{
				"model": text(strings.ToUpper(class)), "class": text(class), "sharing": text("mps"),
				"enforcement": text("mps"), "enforcement_level": text("cooperative"),
				"memory": whole(80 << 10), "slices": whole(int64(slices)),
			}}
		for s := range slices {
			group.Instances = append(group.Instances,
				&nomad.NodeDevice{ID: fmt.Sprintf("GPU-%s-%d::%02dof%02d", name, g, s, slices), Healthy: true})
		}
		node.NodeResources.Devices = append(node.NodeResources.Devices, group)
	}
	c.Nodes = append(c.Nodes, node)
	return node
}

// AddAlloc adds an allocation of a job that holds consecutive slices of one GPU of a node.
func (c *Cluster) AddAlloc(job, group string, node *nomad.NodeListStub, gpu, from,
	slices int) *nomad.AllocationListStub {
	devices := node.NodeResources.Devices[gpu]
	held := &nomad.AllocatedDeviceResource{Vendor: devices.Vendor, Type: devices.Type, Name: devices.Name}
	for _, d := range devices.Instances[from : from+slices] {
		held.DeviceIDs = append(held.DeviceIDs, d.ID)
	}
	a := &nomad.AllocationListStub{
		ID:        fmt.Sprintf("%08x-1111-4000-8000-%012x", len(c.Allocs)+0xa0000001, len(c.Allocs)+1),
		Namespace: "default", NodeID: node.ID, NodeName: node.Name, JobID: job, TaskGroup: group,
		DesiredStatus: nomad.AllocDesiredStatusRun, ClientStatus: nomad.AllocClientStatusRunning,
		CreateTime: time.Now().UnixNano(), ModifyTime: time.Now().UnixNano(),
		AllocatedResources: &nomad.AllocatedResources{Tasks: map[string]*nomad.AllocatedTaskResources{
			"server": {Devices: []*nomad.AllocatedDeviceResource{held}}}},
	}
	c.Allocs = append(c.Allocs, a)
	return a
}

// AddPolicy adds a scaling policy with settings of aliquot-strategy to a group, with a count of 0
// to 4 and a query window of 15 minutes.
func (c *Cluster) AddPolicy(job, group, query string, settings map[string]string) {
	least, most := int64(0), int64(4)
	strategy := []any{map[string]any{"aliquot-strategy": []any{settings}}}
	check := map[string]any{"query": query, "query_window": "15m", "strategy": strategy}
	c.Policies = append(c.Policies, &nomad.ScalingPolicy{
		ID: job + "-" + group, Namespace: "default", Min: &least, Max: &most,
		Target: map[string]string{"Namespace": "default", "Job": job, "Group": group},
		Policy: map[string]any{"check": []any{map[string]any{"demand": []any{check}}}},
	})
}

// ReplicaOf returns an allocation that serves requests as a gateway reports it.
func ReplicaOf(a *nomad.AllocationListStub, class string, slots int) api.Replica {
	return api.Replica{ID: "_nomad-task-" + a.ID + "-server-app-http", Class: class, Slices: 5, Slots: slots,
		Usable: slots, Rate: 2}
}

// Prometheus answers every range query with one series of a constant value, without labels.
func Prometheus(value float64) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, _ := strconv.ParseFloat(r.FormValue("start"), 64)
		end, _ := strconv.ParseFloat(r.FormValue("end"), 64)
		step, _ := strconv.ParseFloat(r.FormValue("step"), 64)
		points := [][2]any{}
		for t := start; t <= end && step > 0; t += step {
			points = append(points, [2]any{t, strconv.FormatFloat(value, 'g', -1, 64)})
		}
		reply(w, map[string]any{"status": "success", "data": map[string]any{
			"resultType": "matrix", "result": []any{map[string]any{"metric": map[string]string{}, "values": points}},
		}})
	}))
}
