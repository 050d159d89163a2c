package main

import (
	"encoding/json"

	"github.com/hashicorp/cli"

	"aliquot.example/internal/version"
)

type versionCommand struct{ ui cli.Ui }

func (versionCommand) Synopsis() string {
	return "Print the version, and the tested versions of Nomad and Consul"
}

func (versionCommand) Help() string {
	return `Usage: aliquot version [-json]

  Prints the release, the commit from which it was built, and the versions of Nomad,
  Consul and the Nomad Autoscaler with which it was tested.

Options:

  -json   Print as JSON. Default false.

Example:

  aliquot version -json
`
}

func (c versionCommand) Run(args []string) int {
	flags := newFlags("version", c.ui)
	asJSON := flags.Bool("json", false, "")
	if !flags.parse(args) {
		return 2
	}
	info, tested := version.Of(), version.TestedWith
	if !*asJSON {
		c.ui.Output("aliquot " + info.String())
		c.ui.Output("tested with Nomad " + tested.Nomad + ", Consul " + tested.Consul + ", Nomad Autoscaler " +
			tested.NomadAutoscaler)
		return 0
	}
	text, err := json.MarshalIndent(struct {
		version.Info
		TestedWith version.Tested `json:"tested_with"`
	}{info, tested}, "", "  ")
	if err != nil {
		c.ui.Error("aliquot version: " + flat(err))
		return 1
	}
	c.ui.Output(string(text))
	return 0
}
