package jobs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	"github.com/hashicorp/nomad/api"

	"aliquot.example/autoscaler-plugin/target"
	"aliquot.example/e2e/consultest"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/control"
	"aliquot.example/internal/account"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/internal/turn"
	"aliquot.example/node"
	"aliquot.example/profiler"
)

// The policies for Nomad allow what the programs do, and do not allow more.
func TestNomadPoliciesSuffice(t *testing.T) {
	client := startNomad(t)
	job, err := client.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: read(t, "http.nomad.hcl"), Variables: "image = \"x\"\ncount = 0\n", Canonicalize: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	t.Run("gateway", func(t *testing.T) {
		token := nomadToken(t, client, "gateway-nomad-policy.hcl")
		conf := &config.Nomad{Address: client.Address(), Token: config.Secret{File: file(t, token)}}
		asked, err := control.NewNomad(conf)
		if err != nil {
			t.Fatal(err)
		}
		scaler := control.Scaler{Client: asked, Config: conf}
		if err := scaler.Scale(t.Context(), "app", "server", 2, "test"); err != nil {
			t.Error(err)
		}
		if n, _, err := scaler.Count(t.Context(), "app", "server"); err != nil || n != 2 {
			t.Errorf("the count is %d, %v", n, err)
		}
		if _, _, err := asked.Services().Get("native", &api.QueryOptions{AuthToken: token}); err != nil {
			t.Errorf("native services: %v", err)
		}
		denied(t, client, token)
	})
	t.Run("autoscaler", func(t *testing.T) {
		token := nomadToken(t, client, "autoscaler-nomad-policy.hcl")
		p := target.New(hclog.NewNullLogger())
		if err := p.SetConfig(map[string]string{"nomad_address": client.Address(), "nomad_token": token, "restart_agent_after": "0"}); err != nil {
			t.Fatal(err)
		}
		group := map[string]string{sdk.TargetConfigKeyJob: "app", sdk.TargetConfigKeyTaskGroup: "server"}
		if err := p.Scale(sdk.ScalingAction{Count: 1, Reason: "test"}, group); err != nil {
			t.Error(err)
		}
		if status, err := p.Status(group); err != nil || !status.Ready || status.Count != 1 {
			t.Errorf("%+v, %v", status, err)
		}
		as := &api.QueryOptions{AuthToken: token}
		policies, _, err := client.Scaling().ListPolicies(as)
		if err != nil || len(policies) != 1 {
			t.Fatalf("%d policies, %v", len(policies), err)
		}
		if _, _, err := client.Scaling().GetPolicy(policies[0].ID, as); err != nil {
			t.Error(err)
		}
		own, err := api.NewClient(&api.Config{Address: client.Address(), SecretID: token})
		if err != nil {
			t.Fatal(err)
		}
		lock, err := own.Locks(api.WriteOptions{}, api.Variable{Path: "nomad-autoscaler/lock", Lock: &api.VariableLock{TTL: "15s", LockDelay: "1s"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Acquire(t.Context()); err != nil {
			t.Errorf("the lock: %v", err)
		}
		if err := lock.Release(t.Context()); err != nil {
			t.Errorf("the lock's end: %v", err)
		}
		denied(t, client, token)
	})
	t.Run("autoscaler of nodes", func(t *testing.T) {
		token := nomadToken(t, client, "autoscaler-nodes-nomad-policy.hcl")
		own, err := api.NewClient(&api.Config{Address: client.Address(), SecretID: token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := account.Cluster(t.Context(), own); err != nil {
			t.Error(err)
		}
		three := 3
		if _, _, err := client.Jobs().Scale("app", "server", &three, "test", false, nil, nil); err != nil {
			t.Fatal(err)
		}
		await(t, "three tasks that wait, and no node that is only full", func() error {
			waiting, err := account.Wait(t.Context(), own)
			if err == nil && (len(waiting) != 1 || waiting[0].Count != 3 || waiting[0].Exhausted != 0 || waiting[0].Snapshot == 0) {
				err = fmt.Errorf("waiting are %+v", waiting)
			}
			return err
		})
		const nobody = "11111111-2222-3333-4444-555555555555"
		_, drain := own.Nodes().UpdateDrainOpts(nobody, &api.DrainOptions{DrainSpec: &api.DrainSpec{}}, nil)
		_, _, purge := own.Nodes().Purge(nobody, nil)
		for what, err := range map[string]error{"drain": drain, "purge": purge} {
			if err == nil || !strings.Contains(err.Error(), "not found") {
				t.Errorf("%s: got %v, want that the node is not found", what, err)
			}
		}
		_, _, stop := own.Jobs().Deregister("app", false, nil)
		if stop == nil || !strings.Contains(stop.Error(), "Permission denied") {
			t.Errorf("stopping jobs: got %v, want a denial", stop)
		}
	})
	t.Run("node", func(t *testing.T) {
		token := nomadToken(t, client, "node-nomad-policy.hcl")
		own, err := api.NewClient(&api.Config{Address: client.Address(), SecretID: token})
		if err != nil {
			t.Fatal(err)
		}
		const nobody = "11111111-2222-3333-4444-555555555555"
		_, drain := own.Nodes().UpdateDrainOpts(nobody, &api.DrainOptions{DrainSpec: &api.DrainSpec{IgnoreSystemJobs: true}}, nil)
		_, admit := own.Nodes().ToggleEligibility(nobody, true, nil)
		_, _, read := own.Nodes().Allocations(nobody, nil)
		for what, err := range map[string]error{"drain": drain, "eligibility": admit} {
			if err == nil || !strings.Contains(err.Error(), "node not found") {
				t.Errorf("%s: got %v, want that the node is not found", what, err)
			}
		}
		if read != nil {
			t.Errorf("allocations: %v", read)
		}
		_, _, stop := own.Jobs().Deregister("app", false, nil)
		_, _, other := own.Variables().Read("other", nil)
		for what, err := range map[string]error{"stopping jobs": stop, "variables": other} {
			if err == nil || !strings.Contains(err.Error(), "Permission denied") {
				t.Errorf("%s: got %v, want a denial", what, err)
			}
		}
	})
	t.Run("bench", func(t *testing.T) {
		token := nomadToken(t, client, "bench-nomad-policy.hcl")
		as := &api.QueryOptions{AuthToken: token, Namespace: api.AllNamespacesNamespace}
		if _, _, err := client.Allocations().Info("5d3c9a1e-1111-2222-3333-444455556666", as); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("an allocation: %v, want that there is none", err)
		}
		if _, _, err := client.Nodes().List(as); err != nil {
			t.Errorf("nodes: %v", err)
		}
		denied(t, client, token, "nodes")
	})
	t.Run("demand", func(t *testing.T) {
		token := nomadToken(t, client, "demand-nomad-policy.hcl")
		asked, err := api.NewClient(&api.Config{Address: client.Address(), SecretID: token})
		if err != nil {
			t.Fatal(err)
		}
		if seen, err := account.Seen(t.Context(), asked); err != nil || len(seen) != 1 {
			t.Errorf("the jobs ask for %+v, %v", seen, err)
		}
		denied(t, client, token)
	})
}

// denied fails where a token may do what no program of ours does, but for what is allowed.
func denied(t *testing.T, client *api.Client, token string, allowed ...string) {
	t.Helper()
	_, _, stop := client.Jobs().Deregister("app", false, &api.WriteOptions{AuthToken: token})
	_, _, list := client.Nodes().List(&api.QueryOptions{AuthToken: token})
	_, _, other := client.Variables().Read("other", &api.QueryOptions{AuthToken: token})
	for what, err := range map[string]error{"stopping jobs": stop, "nodes": list, "other variables": other} {
		refused := err != nil && strings.Contains(err.Error(), "Permission denied")
		if !refused && !slices.Contains(allowed, what) {
			t.Errorf("%s: got %v, want a denial", what, err)
		}
	}
}

func nomadToken(t *testing.T, client *api.Client, path string) string {
	t.Helper()
	if _, err := client.ACLPolicies().Upsert(&api.ACLPolicy{Name: strings.TrimSuffix(path, ".hcl"), Rules: read(t, path)}, nil); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	token, _, err := client.ACLTokens().Create(&api.ACLToken{Name: path, Type: "client", Policies: []string{strings.TrimSuffix(path, ".hcl")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token.SecretID
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The policies for Consul allow what the gateway and the autoscaler's plugins do,
// and do not allow more. That of the router is tested with the router.
func TestConsulPoliciesSuffice(t *testing.T) {
	const management = "3d1f2a10-0000-4000-8000-5a5a5a5a5a5a"
	server, err := consultest.Start(t.TempDir(), map[string]any{"token": management, "acl": map[string]any{
		"enabled": true, "default_policy": "deny", "tokens": map[string]any{"initial_management": management, "agent": management},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	token := func(t *testing.T, path string) string {
		name := strings.TrimSuffix(path, ".hcl")
		policy, _, err := server.Client.ACL().PolicyCreate(&consul.ACLPolicy{Name: name, Rules: read(t, path)}, nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		made, _, err := server.Client.ACL().TokenCreate(&consul.ACLToken{Policies: []*consul.ACLLink{{ID: policy.ID}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return made.SecretID
	}
	t.Run("bench", func(t *testing.T) {
		secret := token(t, "bench-consul-policy.hcl")
		client, err := consul.NewClient(&consul.Config{Address: server.Address, Token: secret})
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Instance("gpu", "chat", "r", consul.HealthPassing, map[string]string{"gpu_class": "l4"}); err != nil {
			t.Fatal(err)
		}
		if r, err := profiler.Find(t.Context(), client, "chat", "", ""); err != nil || r.Class != "l4" {
			t.Errorf("the replica is %+v, %v", r, err)
		}
		p := learned.Profile{Measured: time.Now(), Class: "l4", Slices: "1of1", Answers: 9, Within: []learned.Within{{Concurrency: 1, Rate: 1}}}
		if _, err := profilekv.Save(t.Context(), client, "chat", p); err != nil {
			t.Error(err)
		}
		readsProfiles(t, server.Client, secret)
		deniedByConsul(t, server.Client, secret, "aliquot/rates/app/x")
	})
	t.Run("gateway", func(t *testing.T) {
		secret := token(t, "gateway-consul-policy.hcl")
		readsProfiles(t, server.Client, secret)
		conf := &config.Consul{Address: server.Address, Token: config.Secret{File: file(t, secret)}, Service: "aliquot-gateway", Prefix: "aliquot/rates"}
		client, err := control.NewConsul(conf)
		if err != nil {
			t.Fatal(err)
		}
		rates := control.Rates{Client: client, Config: conf, Gateway: "g"}
		if err := rates.Save(t.Context(), "app", map[string]dispatch.Rate{"h100": {Rate: 2, Slots: 4, Samples: 9}}, time.Now()); err != nil {
			t.Error(err)
		}
		if got, err := rates.Load(t.Context(), "app"); err != nil || got["h100"].Rate != 2 {
			t.Errorf("%v, %v", got, err)
		}
		registrar := control.Registrar{Client: client, Config: conf, Gateway: "g"}
		if err := registrar.Register(t.Context(), "[::]:8080", "[::]:8081"); err != nil {
			t.Error(err)
		}
		as := &consul.QueryOptions{Token: secret}
		if found, _, err := client.Health().Service("aliquot-gateway", "", false, as); err != nil || len(found) != 1 || found[0].Service.Meta["admin"] != "127.0.0.1:8081" {
			t.Errorf("gateways in Consul: %+v, %v", found, err)
		}
		if err := registrar.Deregister(t.Context()); err != nil {
			t.Error(err)
		}
		deniedByConsul(t, server.Client, secret, "aliquot/coldstart/app")
	})
	t.Run("prepull", func(t *testing.T) {
		secret := token(t, "prepull-consul-policy.hcl")
		client, err := consul.NewClient(&consul.Config{Address: server.Address, Token: secret})
		if err != nil {
			t.Fatal(err)
		}
		turns := turn.Turns{Client: client, Prefix: "aliquot/pull", Max: 1, Lapse: time.Minute}
		if err := turns.Take(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		if err := turns.Release(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		deniedByConsul(t, server.Client, secret, "aliquot/coldstart/app")
	})
	t.Run("node", func(t *testing.T) {
		secret := token(t, "node-consul-policy.hcl")
		const failed = `{"holders": {"n1": {"node": "gpu-1", "failed": "it does not boot"}}}`
		for key, text := range map[string]string{"wanted": `{"classes": {"*": {"version": "580.126.09"}}}`, "slots": failed} {
			if _, err := server.Client.KV().Put(&consul.KVPair{Key: "aliquot/node/" + key, Value: []byte(text)}, nil); err != nil {
				t.Fatal(err)
			}
		}
		client, err := consul.NewClient(&consul.Config{Address: server.Address, Token: secret})
		if err != nil {
			t.Fatal(err)
		}
		docs := node.Documents{KV: client.KV(), Prefix: "aliquot/node"}
		if err := docs.Free(t.Context(), "gpu-1"); err != nil {
			t.Error(err)
		}
		if _, err := client.KV().Put(&consul.KVPair{Key: "aliquot/node/nodes/n1", Value: []byte(`{"node": "gpu-1"}`)}, nil); err != nil {
			t.Error(err)
		}
		status, err := docs.Status(t.Context())
		if err != nil || len(status.Slots.Holders) != 0 || len(status.Nodes) != 1 || status.Wanted.For("").Version != "580.126.09" {
			t.Errorf("%+v, %v", status, err)
		}
		// Who may write it has root on every node.
		deniedByConsul(t, server.Client, secret, "aliquot/node/wanted")
		deniedByConsul(t, server.Client, secret, "aliquot/rates/app/x")
	})
	t.Run("demand", func(t *testing.T) {
		secret := token(t, "demand-consul-policy.hcl")
		client, err := consul.NewClient(&consul.Config{Address: server.Address, Token: secret})
		if err != nil {
			t.Fatal(err)
		}
		if ok, _, err := client.KV().CAS(&consul.KVPair{Key: account.DemandKey, Value: []byte(`[{"weight": 1}]`)}, nil); err != nil || !ok {
			t.Errorf("%v, %v", ok, err)
		}
		if d, from, err := account.Demand(t.Context(), "", client); err != nil || len(d) != 1 || from != "Consul KV "+account.DemandKey {
			t.Errorf("the demand is %+v from %s, %v", d, from, err)
		}
		deniedByConsul(t, server.Client, secret, "aliquot/coldstart/app")
	})
	t.Run("autoscaler", func(t *testing.T) {
		secret := token(t, "autoscaler-consul-policy.hcl")
		readsProfiles(t, server.Client, secret)
		if err := server.Instance("other", "aliquot-gateway", "g", consul.HealthPassing, nil); err != nil {
			t.Fatal(err)
		}
		as := &consul.QueryOptions{Token: secret}
		if found, _, err := server.Client.Health().Service("aliquot-gateway", "", true, as); err != nil || len(found) != 1 {
			t.Errorf("%d gateways, %v", len(found), err)
		}
		if pairs, _, err := server.Client.KV().List("aliquot/rates/app/", as); err != nil || len(pairs) != 1 {
			t.Errorf("%d rates, %v", len(pairs), err)
		}
		for _, key := range []string{"aliquot/coldstart/app", "aliquot/speed/app"} {
			ok, _, err := server.Client.KV().CAS(&consul.KVPair{Key: key}, &consul.WriteOptions{Token: secret})
			if err != nil || !ok {
				t.Errorf("%s: %v, %v", key, ok, err)
			}
		}
		deniedByConsul(t, server.Client, secret, "aliquot/rates/app/x")
	})
}

// readsProfiles fails where a token may not read what was benchmarked.
func readsProfiles(t *testing.T, client *consul.Client, token string) {
	t.Helper()
	listed, err := profilekv.List(client, "chat", &consul.QueryOptions{Token: token})
	if err != nil || len(listed.Profiles["chat"]) != 1 {
		t.Errorf("profiles: %+v, %v", listed, err)
	}
}

// deniedByConsul fails where a token may write what another program writes, or
// register another service.
func deniedByConsul(t *testing.T, client *consul.Client, token, key string) {
	t.Helper()
	as := &consul.WriteOptions{Token: token}
	_, kv := client.KV().Put(&consul.KVPair{Key: key}, as)
	_, _, tokens := client.ACL().TokenList(&consul.QueryOptions{Token: token})
	service := client.Agent().ServiceRegisterOpts(&consul.AgentServiceRegistration{Name: "app"}, consul.ServiceRegisterOpts{Token: token})
	for what, err := range map[string]error{key: kv, "tokens": tokens, "other services": service} {
		if err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("%s: got %v, want a denial", what, err)
		}
	}
}
