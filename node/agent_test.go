package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
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

// An agent stops on request while it waits for a Nomad that does not answer. Until it stops, no
// second agent starts on the host.
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

// GPUs that an agent withheld are given back when no change goes on, also where the state is
// lost or the agent ended before it kept what it did; in the middle of a change they stay
// withheld.
func TestAForgottenMarker(t *testing.T) {
	for phase, stays := range map[driver.Phase]bool{driver.Current: false, driver.Changing: false, driver.Idle: true, driver.Verifying: true, driver.Leaving: true, driver.Failed: false} {
		a := idleAgent(t, "http://127.0.0.1:1")
		a.state.Phase = phase
		marker := a.conf.Root.Path(a.conf.RunDir, host.DriverChange)
		if err := os.MkdirAll(a.conf.Root.Path(a.conf.RunDir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(marker, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		a.giveBack(t.Context())
		if _, err := os.Stat(marker); (err == nil) != stays {
			t.Errorf("phase %s: %v, stays %v", phase, err, stays)
		}
	}
}

// An action that hangs says so in the node's report: when it will be ended, and later that
// it cannot be.
func TestAnActionThatHangsIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := idleAgent(t, "http://127.0.0.1:1")
		var said []string
		kv := transport(func(r *http.Request) (*http.Response, error) {
			var report driver.NodeReport
			if err := json.NewDecoder(r.Body).Decode(&report); err != nil || r.URL.Path != "/v1/kv/aliquot/node/nodes/n1" {
				t.Errorf("%s: %v", r.URL, err)
			}
			said = append(said, report.Why)
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("true"))}, nil
		})
		c, err := consul.NewClient(&consul.Config{HttpClient: &http.Client{Transport: kv}})
		if err != nil {
			t.Fatal(err)
		}
		a.docs.KV = c.KV()
		err = a.watched(t.Context(), driver.Install, driver.Seen{ID: "n1"}, func() error {
			time.Sleep(packageTimeout + 7*time.Minute)
			return errors.New("killed at last")
		})
		if err == nil || err.Error() != "killed at last" {
			t.Error(err)
		}
		first, last := "install has been running for 5m0s; its time limit is 2h0m0s", "install has been running for 2h5m0s and cannot be killed: a program hangs in the kernel; check the host"
		if len(said) == 0 || said[0] != first || said[len(said)-1] != last {
			t.Errorf("%q", said)
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (do transport) RoundTrip(r *http.Request) (*http.Response, error) { return do(r) }
