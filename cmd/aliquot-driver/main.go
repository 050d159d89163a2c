// Command aliquot-driver is the Nomad task driver "aliquot".
package main

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"

	aliquotdriver "aliquot.example/drivers/aliquot"
	"aliquot.example/internal/mps"
	"aliquot.example/internal/plugincmd"
)

func main() {
	plugincmd.Plugin{
		Name:   "aliquot-driver",
		What:   "the Nomad task driver \"aliquot\": docker, with the image and the limits of the granted GPU",
		Cookie: base.Handshake.MagicCookieKey,
		Host:   "the Nomad agent",
		Page:   "docs/driver.md",
		Config: `  plugin "aliquot-driver" {
    config {}
  }

  plugin "docker" {
    config {
      gc {
        dangling_containers {
          enabled = false
        }
      }
    }
  }
`,
	}.Answer()
	plugins.ServeCtx(func(ctx context.Context, log hclog.Logger) any {
		return aliquotdriver.New(ctx, log, aliquotdriver.MPS{Clients: clients, Faulted: faulted})
	})
}

func clients(ctx context.Context, program, pipe string) ([]int, error) {
	return mps.Control{Program: program, Pipe: pipe}.Clients(ctx)
}

func faulted(ctx context.Context, program, pipe string) ([]int, bool, error) {
	return mps.Control{Program: program, Pipe: pipe}.Faulted(ctx)
}
