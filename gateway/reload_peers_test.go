package gateway

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/gateway/peers"
)

// shares is a hub that counts the lines which it was asked for.
type shares struct {
	*peers.Hub
	lines int
}

func (s *shares) Share(service string, o line.Options) *line.Shared {
	s.lines++
	return s.Hub.Share(service, o)
}

type noReplicas struct{}

func (noReplicas) Watch(context.Context, func([]line.Replica)) {}

// A reload that fails at one service does not touch the shared queues of the other services. Sharing a
// queue again would cut the queue in use off from the other gateways.
func TestAReloadThatFailsSharesNoQueue(t *testing.T) {
	text := func(retries, key string) *config.Config {
		c, err := config.Parse([]byte(strings.NewReplacer("RETRIES", retries, "KEY", key).Replace(`
service "a" {
  route {
    path_prefix = "/a"
  }
  replica {
    address = "127.0.0.1:1"
  }
  upstream {
    retries = RETRIES
  }
}
service "b" {
  replica {
    address = "127.0.0.1:2"
  }
  engine {
    cache_salt          = "tenant"
    cache_salt_key_file = "KEY"
  }
}
`)), "gateway.hcl")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	hub := &shares{Hub: peers.New(peers.Options{Self: "127.0.0.1:3", Log: log})}
	s, err := New(text("1", key), Options{
		Log: log, Peers: hub, Source: func(config.Service) (Source, error) { return noReplicas{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if hub.lines != 2 {
		t.Fatalf("%d lines at the start, want 2", hub.lines)
	}
	if _, err := s.newPlan(text("2", key+".gone"), s.plan.Load()); err == nil || !strings.Contains(err.Error(), "key.gone") {
		t.Fatalf("got %v", err)
	}
	if hub.lines != 2 {
		t.Error("a plan that fails has replaced a line in use")
	}
	if _, err := s.newPlan(text("2", key), s.plan.Load()); err != nil || hub.lines != 3 {
		t.Errorf("%v, %d lines; want one more, of the service that changed", err, hub.lines)
	}
}
