// Command aliquot contains the operator's tools and the daemons that are not plugins.
package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/cli"
	// Mozilla's root certificates, for hosts and images without any.
	_ "golang.org/x/crypto/x509roots/fallback"

	"aliquot.example/internal/version"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "help" {
		args = append(args[1:], "-help")
	}
	if mistake := usageError(args); mistake != "" && !completing(args) {
		fmt.Fprintf(os.Stderr, "aliquot: %s; see aliquot -help\n", mistake)
		os.Exit(2)
	}
	c := cli.NewCLI("aliquot", "aliquot "+version.Of().String())
	c.Args, c.Commands, c.HelpFunc = args, completed(commands()), help
	c.HelpWriter, c.ErrorWriter = os.Stdout, os.Stderr
	status, err := c.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "aliquot:", err)
	}
	os.Exit(status)
}

// commands returns the subcommands by name.
func commands() map[string]cli.CommandFactory {
	ui := &cli.BasicUi{Writer: os.Stdout, ErrorWriter: os.Stderr}
	return map[string]cli.CommandFactory{
		"doctor":   func() (cli.Command, error) { return doctorCommand{ui}, nil },
		"top":      func() (cli.Command, error) { return topCommand{ui}, nil },
		"gateway":  func() (cli.Command, error) { return gatewayCommand{ui}, nil },
		"router":   func() (cli.Command, error) { return routerCommand{ui}, nil },
		"cache":    func() (cli.Command, error) { return cacheCommand{ui}, nil },
		"turn":     func() (cli.Command, error) { return turnCommand{ui}, nil },
		"ui":       func() (cli.Command, error) { return uiCommand{ui}, nil },
		"simulate": func() (cli.Command, error) { return simulateCommand{ui}, nil },
		"version":  func() (cli.Command, error) { return versionCommand{ui}, nil },

		"job":         func() (cli.Command, error) { return jobCommand{ui}, nil },
		"job inspect": func() (cli.Command, error) { return jobInspectCommand{ui}, nil },
		"job defrag":  func() (cli.Command, error) { return jobDefragCommand{ui}, nil },
		"job plan":    func() (cli.Command, error) { return jobPlanCommand{ui}, nil },
		"job run":     func() (cli.Command, error) { return jobRunCommand{ui}, nil },

		"job right-size": func() (cli.Command, error) { return jobRightSizeCommand{ui}, nil },

		"demand": func() (cli.Command, error) { return demandCommand{ui}, nil },
		"bench":  func() (cli.Command, error) { return benchCommand{ui}, nil },

		"bench matrix": func() (cli.Command, error) { return benchMatrixCommand{ui}, nil },

		"node":         func() (cli.Command, error) { return nodeCommand{ui}, nil },
		"node plan":    func() (cli.Command, error) { return nodePlanCommand{ui}, nil },
		"node agent":   func() (cli.Command, error) { return nodeAgentCommand{ui}, nil },
		"node rollout": func() (cli.Command, error) { return nodeRolloutCommand{ui}, nil },
		"node status":  func() (cli.Command, error) { return nodeStatusCommand{ui}, nil },

		"cache prefetch": func() (cli.Command, error) { return prefetchCommand{ui}, nil },
		"simulate scale": func() (cli.Command, error) { return simulateScaleCommand{ui}, nil },
	}
}

// usageError returns what is wrong with the arguments that should name a command. It returns "" if
// they name one, or ask for help or the version.
func usageError(args []string) string {
	// The help of a parent command lists its subcommands.
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(commands())), func(name string) bool {
		return strings.Contains(name, " ")
	})
	switch known := strings.Join(names, ", "); {
	case len(args) == 0:
		return "no command: want one of " + known
	case slices.Contains([]string{"-h", "-help", "--help", "-v", "-version", "--version"}, args[0]):
		return ""
	case strings.HasPrefix(args[0], "-"):
		return fmt.Sprintf("unknown flag %s: write flags after the command", args[0])
	case commands()[args[0]] == nil:
		return fmt.Sprintf("unknown command %q: want one of %s", args[0], known)
	}
	return ""
}

// help returns the text of `aliquot -help`.
func help(commands map[string]cli.CommandFactory) string {
	var b strings.Builder
	b.WriteString(`Usage: aliquot <command> [flags]

  Serves models on fractions of GPUs with Nomad and Consul. The plugins for Nomad and
  its autoscaler are separate programs. docs/configuration.md lists all settings.

Commands:

`)
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		command, err := commands[name]()
		if err != nil || command.Synopsis() == "" {
			continue
		}
		fmt.Fprintf(&b, "  %-16s%s\n", name, command.Synopsis())
	}
	b.WriteString(`
Flags:

  -help                     Print help for aliquot, or for a command: aliquot top -help.
  -version                  Print the version.
  -autocomplete-install     Install completion of commands and flags for your shell. It
                            works from the next start of the shell on.
  -autocomplete-uninstall   Remove the completion.

Example:

  NOMAD_ADDR=http://nomad.example.com:4646 aliquot top -once
`)
	return strings.TrimSuffix(b.String(), "\n")
}
