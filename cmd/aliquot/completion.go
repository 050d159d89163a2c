package main

import (
	"os"
	"regexp"
	"slices"

	"github.com/hashicorp/cli"
	"github.com/posener/complete"
)

// completing reports whether a shell asks for completions, or a user installs or removes them.
// The arguments of such a call do not name a command.
func completing(args []string) bool {
	return os.Getenv("COMP_LINE") != "" ||
		len(args) == 1 && slices.Contains([]string{"-autocomplete-install", "-autocomplete-uninstall"}, args[0])
}

// completed adds completion of flags and arguments to every command.
func completed(commands map[string]cli.CommandFactory) map[string]cli.CommandFactory {
	out := map[string]cli.CommandFactory{}
	for name, made := range commands {
		out[name] = func() (cli.Command, error) {
			command, err := made()
			if err != nil {
				return nil, err
			}
			return completedCommand{command}, nil
		}
	}
	return out
}

// completedCommand derives a command's completions from its help, which lists every flag.
type completedCommand struct{ cli.Command }

func (c completedCommand) AutocompleteArgs() complete.Predictor {
	if takesFile.MatchString(c.Help()) {
		return complete.PredictFiles("*")
	}
	return complete.PredictNothing
}

func (c completedCommand) AutocompleteFlags() complete.Flags {
	flags := complete.Flags{}
	for _, m := range flagLine.FindAllStringSubmatch(c.Help(), -1) {
		flags[m[1]] = complete.PredictFiles("*")
	}
	return flags
}

var (
	flagLine  = regexp.MustCompile(`(?m)^  (-[a-z][a-z0-9-]*)\b`)
	takesFile = regexp.MustCompile(`(?m)^Usage: .* <file>$`)
)
