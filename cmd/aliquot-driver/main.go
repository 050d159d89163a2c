// Command aliquot-driver is the Nomad task driver "aliquot".
package main

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	gpudriver "aliquot/drivers/gpu"
)

func main() {
	plugins.ServeCtx(func(ctx context.Context, log hclog.Logger) any {
		return gpudriver.New(ctx, log, mpsClients)
	})
}
