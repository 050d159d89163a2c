package gateway_test

import (
	"context"
	"testing"

	"aliquot.example/gateway"
)

// hanging is a registrar whose agent never answers.
type hanging struct{ asked chan struct{} }

func (h hanging) Register(ctx context.Context, public, admin string) error {
	h.asked <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func (h hanging) Deregister(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAGatewayEndsWhileItsAgentHangs(t *testing.T) {
	h := hanging{make(chan struct{}, 100)}
	g := start(t, service("m", at(nobody(t))), func(o *gateway.Options) { o.Registrar = h })
	<-h.asked
	if err := g.stop(); err != nil {
		t.Error(err)
	}
}
