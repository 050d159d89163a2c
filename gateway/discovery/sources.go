package discovery

import (
	"context"
	"log/slog"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
)

// Sources makes the sources that a configuration asks for.
type Sources struct {
	Health      Health
	ConsulToken config.Secret
	Services    Services
	NomadToken  config.Secret
	Log         *slog.Logger
}

// Watcher reports the replicas of one service whenever they change.
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
