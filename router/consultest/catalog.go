package consultest

import (
	"math"

	"github.com/hashicorp/consul/api"
)

// Instance writes an instance with one check into the catalog, on a node of its
// own name that no agent looks after.
func (s *Server) Instance(node, service, id, status string, meta map[string]string) error {
	return s.register(&api.CatalogRegistration{
		Node: node, Address: "10.0.0.1",
		Service: &api.AgentService{ID: id, Service: service, Port: 8000, Meta: meta},
		Check:   check(node, id, status),
	})
}

// Sidecar writes the Envoy sidecar of an instance into the catalog, with the meta
// that it inherits and a check that follows the instance's.
func (s *Server) Sidecar(node, service, id, status string, meta map[string]string, port int) error {
	name := service + "-sidecar-proxy"
	return s.register(&api.CatalogRegistration{
		Node: node, Address: "10.0.0.1",
		Service: &api.AgentService{
			ID: id + "-sidecar-proxy", Service: name, Port: port, Kind: api.ServiceKindConnectProxy, Meta: meta,
			Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: service, DestinationServiceID: id},
		},
		Check: check(node, id+"-sidecar-proxy", status),
	})
}

// Health sets the status of an instance's check.
func (s *Server) Health(node, id, status string) error {
	return s.register(&api.CatalogRegistration{Node: node, Address: "10.0.0.1", Check: check(node, id, status)})
}

func check(node, id, status string) *api.AgentCheck {
	return &api.AgentCheck{Node: node, CheckID: "check:" + id, ServiceID: id, Name: "check", Status: status}
}

func (s *Server) register(r *api.CatalogRegistration) error {
	_, err := s.Client.Catalog().Register(r, nil)
	return err
}

// Chain returns the shares of a service's compiled discovery chain, in hundredths
// of a percent by subset; nil while it does not split.
func (s *Server) Chain(service string) map[string]int {
	resp, _, err := s.Client.DiscoveryChain().Get(service, nil, nil)
	if err != nil {
		return nil
	}
	c := resp.Chain
	node := c.Nodes[c.StartNode]
	if node != nil && node.Type == api.DiscoveryGraphNodeTypeRouter {
		node = c.Nodes[node.Routes[len(node.Routes)-1].NextNode]
	}
	if node == nil || node.Type != api.DiscoveryGraphNodeTypeSplitter {
		return nil
	}
	out := map[string]int{}
	for _, split := range node.Splits {
		name := split.NextNode
		if n := c.Nodes[name]; n != nil && n.Resolver != nil {
			name = c.Targets[n.Resolver.Target].ServiceSubset
		}
		out[name] += int(math.Round(float64(split.Weight) * 100))
	}
	return out
}
