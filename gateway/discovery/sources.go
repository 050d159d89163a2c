package discovery

import (
	"context"
	"log/slog"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
)

// Sources creates the sources of replicas in a configuration.
type Sources struct {
	Health      Health
	ConsulToken config.Secret
	Services    Services
	NomadToken  config.Secret
	Log         *slog.Logger
}

// Watcher watches the replicas of one service. Watch calls set whenever they change, until ctx ends.
type Watcher interface {
	Watch(ctx context.Context, set func([]line.Replica))
}

// Of returns the source of one service.
func (s Sources) Of(c config.Source) Watcher {
	switch {
	case c.Consul != nil:
		return Consul{Health: s.Health, Source: *c.Consul, Token: s.ConsulToken, Log: s.Log}
	case c.Nomad != nil:
		return Nomad{Services: s.Services, Source: *c.Nomad, Token: s.NomadToken, Log: s.Log}
	case c.File != "":
		return File{Path: c.File, Log: s.Log}
	}
	return Static(c.Static)
}
