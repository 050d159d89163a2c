// Command aliquot-driver is the Nomad task driver "aliquot".
package main

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	gpudriver "aliquot/drivers/gpu"
	"aliquot/internal/mps"
)

func main() {
	plugins.ServeCtx(func(ctx context.Context, log hclog.Logger) any {
		return gpudriver.New(ctx, log, clients)
	})
}

func clients(ctx context.Context, program, pipe string) ([]int, error) {
	return mps.Control{Program: program, Pipe: pipe}.Clients(ctx)
}
