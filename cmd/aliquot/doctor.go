package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/cli"
	"github.com/hashicorp/nomad/api"

	"aliquot/internal/doctor"
)

type doctorCommand struct{ ui cli.Ui }

func (doctorCommand) Synopsis() string { return "Look for what keeps a node from serving GPUs well" }

func (doctorCommand) Help() string {
	return `Usage: aliquot doctor [-json]

  Examines the Nomad agent of a client node and prints one line per check, with
  the fix for each that is not ok. Run it on the node, or point NOMAD_ADDR at it;
  NOMAD_TOKEN needs agent:read and node:read.

  Exits with 1 when a check failed, with 2 when the agent could not be asked.

Options:

  -json  Print the findings as JSON. Default false.

Example:

  NOMAD_ADDR=http://gpu-7.example.com:4646 aliquot doctor
`
}

func (c doctorCommand) Run(args []string) int {
	flags := newFlags("doctor", c.ui)
	asJSON := flags.Bool("json", false, "")
	if !flags.parse(args) {
		return 2
	}
	facts, err := examine()
	if err != nil {
		c.ui.Error("aliquot doctor: " + flat(err))
		return 2
	}
	findings := doctor.Examine(facts)
	if *asJSON {
		out, _ := json.MarshalIndent(findings, "", "  ")
		c.ui.Output(string(out))
	}
	status := 0
	for _, f := range findings {
		if !*asJSON {
			c.ui.Output(fmt.Sprintf("%-4s  %-9s  %s", f.Level, f.Check, f.What))
			if f.Fix != "" {
				c.ui.Output("                 fix: " + f.Fix)
			}
		}
		if f.Level == doctor.Failure {
			status = 1
		}
	}
	return status
}

func examine() (doctor.Facts, error) {
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return doctor.Facts{}, err
	}
	var f doctor.Facts
	if f.Agent, err = client.Agent().Self(); err != nil {
		return f, fmt.Errorf("cannot ask the Nomad agent at %s: %w (run this on a client node, or set NOMAD_ADDR; NOMAD_TOKEN where ACLs are on)", client.Address(), err)
	}
	if id := f.Agent.Stats["client"]["node_id"]; id != "" {
		if f.Node, _, err = client.Nodes().Info(id, nil); err != nil {
			return f, fmt.Errorf("cannot read node %s: %w", id, err)
		}
	}
	_, err = os.Stat("/tmp/nvidia-mps")
	f.DefaultMPSDirectory = err == nil
	return f, nil
}
