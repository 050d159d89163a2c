package consultest

import (
	"context"
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

const (
	typeCluster  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	typeEndpoint = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	typeListener = "type.googleapis.com/envoy.config.listener.v3.Listener"
	typeRoute    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// Envoy holds the resources that Consul has sent to the Envoy of one sidecar, by name.
type Envoy struct {
	Clusters  map[string]*clusterv3.Cluster
	Endpoints map[string]*endpointv3.ClusterLoadAssignment
	Routes    map[string]*routev3.RouteConfiguration
}

// Follow speaks delta ADS like the Envoy of a registered sidecar. It returns the received resources
// once enough reports true for them.
func (s *Server) Follow(ctx context.Context, proxyID string, enough func(*Envoy) bool) (*Envoy, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	f := &follower{stream: stream, known: map[string]map[string]bool{}, envoy: &Envoy{
		Clusters: map[string]*clusterv3.Cluster{}, Endpoints: map[string]*endpointv3.ClusterLoadAssignment{},
		Routes: map[string]*routev3.RouteConfiguration{},
	}}
	node := &corev3.Node{Id: proxyID,
		UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.34.1"}}
	for i, kind := range []string{typeCluster, typeListener} {
		request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind}
		if i == 0 {
			request.Node = node
		}
		if err := stream.Send(request); err != nil {
			return nil, err
		}
	}
	for !enough(f.envoy) {
		answer, err := stream.Recv()
		if err != nil {
			return f.envoy, fmt.Errorf("xDS stream: %w", err)
		}
		if err := f.take(answer); err != nil {
			return f.envoy, err
		}
	}
	return f.envoy, nil
}

// FollowFor is like Follow, and returns an error after limit.
func (s *Server) FollowFor(limit time.Duration, proxyID string, enough func(*Envoy) bool) (*Envoy, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return s.Follow(ctx, proxyID, enough)
}

type follower struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	known  map[string]map[string]bool // names subscribed to, by type
	envoy  *Envoy
}

func (f *follower) take(answer *discoveryv3.DeltaDiscoveryResponse) error {
	var more []string
	for _, r := range answer.Resources {
		switch answer.TypeUrl {
		case typeCluster:
			c := &clusterv3.Cluster{}
			if err := proto.Unmarshal(r.Resource.Value, c); err != nil {
				return err
			}
			f.envoy.Clusters[r.Name] = c
			more = append(more, r.Name)
		case typeEndpoint:
			e := &endpointv3.ClusterLoadAssignment{}
			if err := proto.Unmarshal(r.Resource.Value, e); err != nil {
				return err
			}
			f.envoy.Endpoints[r.Name] = e
		case typeRoute:
			c := &routev3.RouteConfiguration{}
			if err := proto.Unmarshal(r.Resource.Value, c); err != nil {
				return err
			}
			f.envoy.Routes[r.Name] = c
		case typeListener:
			// An upstream's listener is "<name>:<address>:<port>", its route "<name>".
			for i, b := range r.Name {
				if b == ':' {
					more = append(more, r.Name[:i])
					break
				}
			}
		}
	}
	for _, name := range answer.RemovedResources {
		delete(f.envoy.Clusters, name)
		delete(f.envoy.Endpoints, name)
		delete(f.envoy.Routes, name)
	}
	if err := f.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: answer.TypeUrl,
		ResponseNonce: answer.Nonce}); err != nil {
		return err
	}
	switch answer.TypeUrl {
	case typeCluster:
		return f.subscribe(typeEndpoint, more)
	case typeListener:
		return f.subscribe(typeRoute, more)
	}
	return nil
}

func (f *follower) subscribe(kind string, names []string) error {
	if f.known[kind] == nil {
		f.known[kind] = map[string]bool{}
	}
	var fresh []string
	for _, name := range names {
		if !f.known[kind][name] {
			f.known[kind][name] = true
			fresh = append(fresh, name)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return f.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind, ResourceNamesSubscribe: fresh})
}
