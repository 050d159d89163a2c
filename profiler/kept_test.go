package profiler_test

import (
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/internal/learned"
	"aliquot.example/internal/profile"
	"aliquot.example/internal/profilekv"
	"aliquot.example/profiler"
)

func report() *profiler.Report {
	good := &profiler.Quality{Mean: 0.01, Worst: 0.05}
	return &profiler.Report{
		Measured: time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC), Answers: 400,
		About:     profiler.About{Model: "qwen3", Version: "0.28.0", Engine: profiler.Engine{Kind: "vllm"}},
		Objective: profiler.Objective{TTFT: 2 * time.Second, TPOT: 100 * time.Millisecond},
		Points:    []profile.Point{{}}, Prefill: good, Step: good,
		Curve: &learned.Curve{Prefill: 1e-4, A: 0.03, B: 2e-5, C: 1e-7, Prompt: 512, Output: 128, KV: 85_000, Samples: 300},
	}
}

var l4 = profiler.Replica{Class: "l4", Slices: "10of20", Image: "vllm:v0.28.0", Driver: "550.90"}

func TestAReportBecomesAProfile(t *testing.T) {
	r := report()
	p, err := r.Profile(l4, []learned.Objective{{TPOT: 0.05}, {TPOT: 0.001}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Engine != "vllm 0.28.0" || p.Driver != "550.90" || p.Class != "l4" || p.Slices != "10of20" || p.Answers != 400 || !p.Measured.Equal(r.Measured) {
		t.Errorf("%+v", p)
	}
	most, rate := r.Curve.MaxConcurrency(learned.Objective{TTFT: 2, TPOT: 0.1})
	if len(p.Within) != 3 || p.Within[0].Concurrency != most || p.Curve.Rate != rate || p.Within[1].Concurrency >= most || p.Within[2].Concurrency != 0 {
		t.Errorf("%+v; the objective of the run allows %v at once", p.Within, most)
	}
	for want, change := range map[string]func(*profiler.Report){
		"no curve was found":    func(r *profiler.Report) { r.Curve = nil },
		"the curves do not fit": func(r *profiler.Report) { r.Step = &profiler.Quality{Mean: 0.2} },
	} {
		r := report()
		change(r)
		if _, err := r.Profile(l4, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := report().Profile(profiler.Replica{Class: "L4 GPU", Slices: "1of1"}, nil); err == nil {
		t.Error("a profile of a class that is none")
	}
}

func TestProfilesAreKeptInConsul(t *testing.T) {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	t.Run("replicas", func(t *testing.T) { replicas(t, server) })
	t.Run("profiles", func(t *testing.T) { profiles(t, server.Client) })
}

func replicas(t *testing.T, server *consultest.Server) {
	find := func(service, class, size string) (profiler.Replica, error) {
		return profiler.Find(t.Context(), server.Client, service, class, size)
	}
	meta := func(class, slices string) map[string]string {
		return map[string]string{"gpu_class": class, "aliquot_slices": slices, "aliquot_slices_total": "20", "concurrency": "64"}
	}
	for _, err := range []error{
		server.Instance("n1", "chat", "b", consul.HealthPassing, meta("l4", "10")),
		server.Instance("n2", "chat", "a", consul.HealthPassing, meta("l4", "10")),
		server.Instance("n3", "chat", "c", consul.HealthPassing, meta("h100", "5")),
		server.Instance("n4", "chat", "d", consul.HealthCritical, meta("t4", "5")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := find("chat", "l4", "")
	if err != nil || got.Class != "l4" || got.Slices != "10of20" || got.Slots != 64 || got.URL != "http://10.0.0.1:8000" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := find("chat", "", "5of20"); err != nil || got.Class != "h100" {
		t.Errorf("%+v, %v", got, err)
	}
	for want, of := range map[string][3]string{
		`differ: choose one of these with -class and -slices: h100 5of20, l4 10of20`: {"chat"},
		`has no replica of that class and size: it has h100 5of20, l4 10of20`:        {"chat", "t4"},
		`"other" has no healthy replica`:                                             {"other"},
	} {
		if _, err := find(of[0], of[1], of[2]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", of, err, want)
		}
	}
}

func profiles(t *testing.T, client *consul.Client) {
	save := func(of profiler.Replica, later time.Duration) learned.Profile {
		t.Helper()
		p, err := report().Profile(of, nil)
		if err != nil {
			t.Fatal(err)
		}
		p.Measured = p.Measured.Add(later)
		before, err := profilekv.Save(t.Context(), client, "chat", p)
		if err != nil {
			t.Fatal(err)
		}
		return before
	}
	if before := save(l4, 0); !before.Measured.IsZero() {
		t.Errorf("before the first there was %+v", before)
	}
	if before := save(l4, time.Hour); !before.Measured.Equal(report().Measured) || before.Driver != "550.90" {
		t.Errorf("before the second there was %+v", before)
	}
	whole := l4
	whole.Slices = "1of1"
	save(whole, 0)
	broken := learned.ProfileKey("chat", "t4", "1of1")
	if _, err := client.KV().Put(&consul.KVPair{Key: broken, Value: []byte("{")}, nil); err != nil {
		t.Fatal(err)
	}
	listed, err := profilekv.List(client, "", nil)
	if err != nil || len(listed.Profiles["chat"]) != 3 || len(listed.Bad["chat"]) != 1 || listed.Version["chat"] == 0 {
		t.Errorf("%+v, %v", listed, err)
	}
	bad := l4
	bad.Class, bad.Slices = "t4", "1of1"
	p, _ := report().Profile(bad, nil)
	if _, err := profilekv.Save(t.Context(), client, "chat", p); err == nil || !strings.Contains(err.Error(), "consul kv delete") {
		t.Errorf("over a broken document: %v", err)
	}
	// The version also changes if a key is deleted that is not the newest.
	if _, err := client.KV().Delete(learned.ProfileKey("chat", "l4", "1of1"), nil); err != nil {
		t.Fatal(err)
	}
	after, err := profilekv.List(client, "", nil)
	if err != nil || len(after.Profiles["chat"]) != 2 || after.Version["chat"] == listed.Version["chat"] {
		t.Errorf("after a deletion: %+v, %v", after, err)
	}
}

// A token without permission reads no profiles, and this is not an error. Consul leaves out keys
// that the token may not read, or, if it may not even list keys, refuses.
func TestProfilesThatMayNotBeReadAreNone(t *testing.T) {
	const root = "11111111-2222-3333-4444-555555555555"
	server, err := consultest.Start(t.TempDir(), map[string]any{"token": root, "acl": map[string]any{
		"enabled": true, "default_policy": "deny", "enable_key_list_policy": true, "tokens": map[string]any{"initial_management": root},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	policy, _, err := server.Client.ACL().PolicyCreate(&consul.ACLPolicy{Name: "rates", Rules: `key_prefix "aliquot/rates/" { policy = "write" }`}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := server.Client.ACL().TokenCreate(&consul.ACLToken{Policies: []*consul.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	q := &consul.QueryOptions{Token: token.SecretID}
	if _, _, err := server.Client.KV().List(learned.ProfilesPrefix+"/", q); err == nil {
		t.Error("Consul does not refuse")
	}
	if listed, err := profilekv.List(server.Client, "chat", q); err != nil || len(listed.Profiles) != 0 {
		t.Errorf("%+v, %v", listed, err)
	}
}
