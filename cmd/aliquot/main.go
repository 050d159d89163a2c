// Command aliquot is the operator's command and the home of the daemons that
// are not plugins.
package main

import (
	"fmt"
	"os"

	"github.com/hashicorp/cli"

	"aliquot/internal/version"
)

func main() {
	c := cli.NewCLI("aliquot", version.Version)
	c.Args = os.Args[1:]
	c.Commands = commands()
	status, err := c.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "aliquot:", err)
	}
	os.Exit(status)
}

// commands lists the subcommands; each stands in a file of its own name.
func commands() map[string]cli.CommandFactory {
	ui := &cli.BasicUi{Writer: os.Stdout, ErrorWriter: os.Stderr}
	return map[string]cli.CommandFactory{
		"doctor":  func() (cli.Command, error) { return doctorCommand{ui}, nil },
		"top":     func() (cli.Command, error) { return topCommand{ui}, nil },
		"gateway": func() (cli.Command, error) { return gatewayCommand{ui}, nil },
		"router":  func() (cli.Command, error) { return routerCommand{ui}, nil },

		"simulate scale": func() (cli.Command, error) { return simulateScaleCommand{ui}, nil },
	}
}
