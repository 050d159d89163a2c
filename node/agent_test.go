package node

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/host"
)

// idleAgent is an agent on an empty host.
func idleAgent(t *testing.T, address string) *Agent {
	t.Helper()
	n, err := nomad.NewClient(&nomad.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	c, err := consul.NewClient(&consul.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	conf := Config{Root: host.Root(t.TempDir()), Dir: state, RunDir: "/run/aliquot", Prefix: "aliquot/node", Interval: time.Second}
	return New(conf, n, c, slog.New(slog.NewTextHandler(testLog{t}, nil)))
}

// An agent that waits for a Nomad that does not answer ends when it is told to, and keeps
// a second one from the host until then.
func TestANomadThatDoesNotAnswer(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan struct{}, 10)
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer hangs.Close()
	a := idleAgent(t, hangs.URL)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	<-asked
	second := *a
	if err := second.Run(t.Context()); err == nil {
		t.Error("a second agent runs on the host")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// GPUs that an agent withheld are given back by the next one, also where the state is lost;
// in the middle of a change they stay withheld.
func TestAForgottenMarker(t *testing.T) {
	for phase, stays := range map[driver.Phase]bool{driver.Current: false, driver.Changing: false, driver.Idle: true, driver.Verifying: true, driver.Failed: true} {
		a := idleAgent(t, "http://127.0.0.1:1")
		a.state.Phase = phase
		marker := a.conf.Root.Path(a.conf.RunDir, host.DriverChange)
		if err := os.MkdirAll(a.conf.Root.Path(a.conf.RunDir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(marker, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := a.giveBack(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(marker); (err == nil) != stays {
			t.Errorf("phase %s: %v, stays %v", phase, err, stays)
		}
	}
}
