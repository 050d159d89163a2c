// Package plugincmd prints an explanation if somebody runs the program of a plugin in a terminal.
package plugincmd

import (
	"fmt"
	"io"
	"os"

	"aliquot.example/internal/version"
)

// AutoscalerCookie is the Cookie of the Nomad Autoscaler's plugins; its packages do
// not export the name.
const AutoscalerCookie = "NOMAD_AUTOSCALER_PLUGIN_MAGIC_COOKIE"

// Plugin describes a plugin's program.
type Plugin struct {
	Name string // of the program
	What string // what it is, to continue a sentence that begins with its name
	// Cookie is the environment variable with which the plugin's host marks the processes that it
	// starts.
	Cookie string
	Host   string // the program that starts it, such as "the Nomad agent"
	Config string // of the host, in HCL
	Page   string // of the documentation
}

// Answer ends the program with an explanation unless the plugin's host started it.
func (p Plugin) Answer() {
	if os.Getenv(p.Cookie) == "" {
		os.Exit(p.answer(os.Args[1:], os.Stdout, os.Stderr))
	}
}

func (p Plugin) answer(args []string, out, problem io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintf(problem, "%s: this is a plugin that %s starts; see %s -help\n", p.Name, p.Host, p.Name)
		return 1
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprintf(out,
			"%s is %s.\n\nIt is not run by hand: %s starts it. Put this file into the plugin_dir of "+
				"its\nconfiguration, under this name, and add there:\n\n%s\nAll settings are in "+
				"docs/configuration.md, and %s explains them.\nThis is release %s.\n",
			p.Name, p.What, p.Host, p.Config, p.Page, version.Version)
		return 0
	case "-v", "-version", "--version":
		fmt.Fprintln(out, p.Name, version.Of())
		return 0
	}
	fmt.Fprintf(problem, "%s: unexpected argument %q: a plugin takes its settings from %s; see %s -help\n", p.Name,
		args[0], p.Host, p.Name)
	return 2
}
