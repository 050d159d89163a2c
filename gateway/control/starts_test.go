package control

import (
	"testing"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/e2e/consultest"
	"aliquot.example/gateway/config"
	"aliquot.example/internal/learned"
)

// What the autoscaler wrote of starts the gateway reads, and says so where it cannot.
func TestStartsAreRead(t *testing.T) {
	server, err := consultest.Start(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	r := &Rates{Client: server.Client, Config: &config.Consul{}}
	if got, err := r.Starts(t.Context(), "chat"); err != nil || got != nil {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	write := func(text string) {
		t.Helper()
		if _, err := server.Client.KV().Put(&consul.KVPair{Key: learned.StartsKey("chat"), Value: []byte(text)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"version":1,"samples":[{"at":"2999-01-01T00:00:00Z","class":"h100","seconds":9}]}`)
	if got, err := r.Starts(t.Context(), "chat"); err != nil || len(got) != 0 {
		t.Errorf("of a time to come: %v, %v", got, err)
	}
	write(`{"version":9}`)
	if got, err := r.Starts(t.Context(), "chat"); err == nil {
		t.Errorf("of another release: %v", got)
	}
}
