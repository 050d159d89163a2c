package discovery

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
)

// Services is the used part of Nomad's API for native services.
type Services interface {
	Get(name string, q *nomad.QueryOptions) ([]*nomad.ServiceRegistration, *nomad.QueryMeta, error)
}

// Nomad is a source of replicas: the registrations of a Nomad service. Registrations have no meta,
// so a replica describes itself with tags such as "gpu_class=h100". They do not follow health
// checks, so the gateway has to eject a failing replica itself.
type Nomad struct {
	Services Services
	Source   config.NomadSource
	Token    config.Secret
	Log      *slog.Logger
}

// Watch calls set whenever the registrations change. It keeps the last ones while Nomad does not
// answer.
func (n Nomad) Watch(ctx context.Context, set func([]line.Replica)) {
	var index uint64
	var failed backoff
	mistakes := &onceLog{log: n.Log}
	for ctx.Err() == nil {
		token, err := n.Token.Read()
		var found []*nomad.ServiceRegistration
		var meta *nomad.QueryMeta
		if err == nil {
			q := (&nomad.QueryOptions{WaitIndex: index, WaitTime: waitTime, AuthToken: token}).WithContext(ctx)
			found, meta, err = n.Services.Get(n.Source.Service, q)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			n.Log.Warn("Nomad does not answer; keeping the last known replicas", "service", n.Source.Service,
				"error", err)
			index = 0
			failed.wait(ctx)
			continue
		}
		failed = backoff{}
		if meta.LastIndex == index && index > 0 {
			continue
		}
		if meta.LastIndex < index {
			index = 0
			continue
		}
		index = max(meta.LastIndex, 1)
		set(registered(found, mistakes))
	}
}

func registered(found []*nomad.ServiceRegistration, mistakes *onceLog) []line.Replica {
	var out []line.Replica
	for _, s := range found {
		tags := map[string]string{}
		for _, tag := range s.Tags {
			if key, value, ok := strings.Cut(tag, "="); ok {
				tags[key] = value
			}
		}
		address := net.JoinHostPort(s.Address, strconv.Itoa(s.Port))
		r := described(address, func(key string) string { return tags[key] }, mistakes)
		out = append(out, replica(s.ID+"@"+address, r))
	}
	return out
}
