package consultest

import (
	"math"

	"github.com/hashicorp/consul/api"
)

// Instance registers an instance with one check in the catalog, on a node without an agent.
func (s *Server) Instance(node, service, id, status string, meta map[string]string) error {
	return s.register(&api.CatalogRegistration{
		Node: node, Address: "10.0.0.1",
		Service: &api.AgentService{ID: id, Service: service, Port: 8000, Meta: meta},
		Check:   check(node, id, status),
	})
}

// Sidecar registers the Envoy sidecar of an instance in the catalog, with the meta that it inherits
// and a check of its own.
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

// Chain returns the shares of a service's compiled discovery chain by subset, in hundredths of a
// percent. It returns nil while the chain has no splitter.
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
